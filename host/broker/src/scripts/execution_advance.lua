-- Writes what a run of an execution came to, and makes the calls and timers that it asked for: all of it or nothing; stands
-- behind execution.lua. Allowed when memory is full: what has begun has to be able to end.
--
-- KEYS[1] the stream of the function's calls in which its wake stands
-- KEYS[2] the claims hash of that stream
-- KEYS[3] the timers of its executions
-- KEYS[4] the execution's state
-- KEYS[5] its log
-- KEYS[6] the function's executions
-- KEYS[7] its result key
-- KEYS[8] the mark of its id
-- KEYS[9…] three for each call that is made: the stream, the result key and the mark of its function and id
-- ARGV[1] consumer group
-- ARGV[2] this host's consumer name
-- ARGV[3] entry id of the wake
-- ARGV[4] claims that the lease was given at
-- ARGV[5] the execution's id
-- ARGV[6] the run that was run
-- ARGV[7] how many entries its log had
-- ARGV[8] how many steps these had
-- ARGV[9] how it goes on: 'waits', 'goes-on', 'restarts', 'stuck', or its end: 'completed', 'failed'
-- ARGV[10] its result document ('' = it has no end); if it is stuck, why
-- ARGV[11] how long a result is kept, in ms
-- ARGV[12] how long the log of what has ended is kept, in ms
-- ARGV[13] how long the mark of a call lasts that nothing ends, in ms
-- ARGV[14] reply channel ('' = none)
-- ARGV[15] the channel on which hosts are told of timers
-- ARGV[16] the function's name
-- ARGV[17] the steps whose timers are of no use any more, with commas between them
-- ARGV[18] to which component it was to be moved when it was run ('' = to none)
-- ARGV[19] a component that it cannot be moved to, and why ('' = none was tried, or it is moved)
-- ARGV[20] how many facts are appended
-- ARGV[21…] for each of them: what it takes beside ('' = nothing, 'call' = a call, 'begin' = a new run with an empty log,
--          'pin' = the component that is its last value, or when its timer is due, in Unix ms), its step ('' = none), how many names and values it has, and these; of a call,
--          how many names and values its entry has, and these
--
-- Returns
--   2  it has ended, or was begun anew, meanwhile; the wake is acknowledged, and nothing was written
--   1  written; the log of one that begins anew has the events that came meanwhile, too
--   0  lost: this host does not hold the lease any more; nothing was changed
--  -1  the log is not what it should be; nothing was changed
--  -2  the component is not kept; nothing was changed
local calls, claims, timers, state, log = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, me, entry, id, run = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[6]

local pending = redis.pcall('XPENDING', calls, group, entry, entry, 1, me)
if pending.err or #pending == 0 then return 0 end
if (redis.call('HGET', claims, entry) or '0') ~= ARGV[4] then return 0 end
local function leave()
  redis.call('XACK', calls, group, entry)
  redis.call('XDEL', calls, entry)
  if ARGV[4] ~= '0' then redis.call('HDEL', claims, entry) end
end
local book = open(state, log)
if not is_open(book) or book.run ~= run or book.steps ~= ARGV[8] then
  leave()
  return 2
end
-- What cannot be read is not written to, and can be stuck all the same.
if ARGV[9] ~= 'stuck' and not is_whole(book) then return -1 end
local is_news = book.length > tonumber(ARGV[7])
-- What somebody put under a key of the calls, or under the timers, by hand is found here, before anything is written.
redis.call('ZCARD', timers)
for i = 9, #KEYS, 3 do redis.call('XLEN', KEYS[i]) end
if book.digest or ARGV[21] == 'pin' then redis.call('HLEN', string.sub(components(state, id), 1, -2) .. 's') end
-- Events that came meanwhile go along into the new log. Nothing else is waited for: a function begins anew between two steps.
local late = {}
if ARGV[9] == 'restarts' and is_news then
  for _, came in ipairs(redis.call('XRANGE', log, string.format('%.0f-0', ARGV[7] + 1), '+')) do
    local fact, its_id = {}, nil
    for i = 1, #came[2], 2 do
      local name, value = came[2][i], came[2][i + 1]
      if name == 'id' then its_id = value end
      if name ~= 'at' and name ~= 'chain' then
        fact[#fact + 1] = name
        fact[#fact + 1] = value
      end
    end
    if fact[2] == 'event-received' then late[#late + 1] = { its_id, fact } end
  end
end
-- The first fact of what was never run, or is moved, is the component that it is pinned to from then on.
if ARGV[21] == 'pin' and redis.call('EXISTS', components(state, id) .. ARGV[21 + ARGV[23] + 2]) == 0 then return -2 end

-- Timers that are of no use any more: of earlier runs over the log, and of this one, which are then not set at all.
local idle = {}
for step in string.gmatch(ARGV[17], '%d+') do
  idle[step] = true
  if redis.call('HDEL', state, 't:' .. run .. ':' .. step) == 1 then redis.call('ZREM', timers, timer(id, run, step)) end
end
local at, steps, made, first_due, why = 21, tonumber(ARGV[8]), 9, nil, nil
local function take(count)
  local taken = {}
  for i = at, at + count - 1 do taken[#taken + 1] = ARGV[i] end
  at = at + count
  return taken
end
for _ = 1, ARGV[20] do
  local takes, step, count = unpack(take(3))
  local fact = take(count)
  if takes == 'begin' then
    forget(state, tonumber(run))
    unpin(book, id, ARGV[12])
    redis.call('DEL', log)
    run, steps = string.format('%.0f', run + 1), 0
    redis.call('HSET', state, 'run', run)
    book.length, book.chain, book.bytes, book.calls = 0, '', 0, 0
  end
  local digest = takes == 'pin' and fact[#fact]
  local failed = fact[2] == 'failed' and fact[4] .. ': ' .. fact[6]
  -- Only the first can find that somebody else has written there, and nothing has come of it yet.
  if not append(book, fact) then return -1 end
  if digest then
    pin(book, id, digest, ARGV[12])
    redis.call('HDEL', state, 'refused')
  end
  why = failed or why
  if step ~= '' then steps = tonumber(step) end
  if takes == 'call' then
    local fields = take(take(1)[1])
    local stream, result, mark = KEYS[made], KEYS[made + 1], KEYS[made + 2]
    redis.call('HSET', state, 'c:' .. run .. ':' .. step, string.match(result, '}:result:(.+)$'))
    book.calls = book.calls + 1
    made = made + 3
    -- Nobody but this step makes a call of this id, and it is made here only once.
    local call = redis.call('XADD', stream, '*', unpack(fields))
    redis.call('SET', mark, call, 'PX', ARGV[13])
    redis.call('DEL', result)
  elseif takes ~= '' and takes ~= 'begin' and takes ~= 'pin' and not idle[step] then
    redis.call('HSET', state, 't:' .. run .. ':' .. step, '1')
    redis.call('ZADD', timers, takes, timer(id, run, step))
    first_due = math.min(first_due or tonumber(takes), tonumber(takes))
  end
end
for _, came in ipairs(late) do
  append(book, came[2])
  redis.call('HSET', state, 'e:' .. came[1], string.format('%.0f %s', book.length, run))
end
leave()

local how = ARGV[9]
book.wake = '0'
if ARGV[19] ~= '' then redis.call('HSET', state, 'refused', ARGV[19]) elseif book.wish ~= '' then redis.call('HDEL', state, 'refused') end
if how == 'completed' or how == 'failed' then
  finish(book, KEYS[6], KEYS[7], KEYS[8], id, how, ARGV[10], ARGV[11], ARGV[12], 'steps', steps, why and 'failed' or 'steps', why or steps)
  if ARGV[14] ~= '' then redis.call('PUBLISH', ARGV[14], ARGV[10]) end
else
  book.is = how == 'stuck' and 'stuck' or 'running'
  -- What came meanwhile nobody has seen yet, nor has anybody tried to move it since it was asked for.
  local is_due = how == 'restarts' or how == 'goes-on' or (is_news and is_of_use(book)) or book.wish ~= ARGV[18]
  if is_due then wake(normal(calls), book, id) end
  if book.wish ~= '' and book.wish == ARGV[18] then redis.call('HDEL', state, 'move') end
  if ARGV[20] ~= '0' then
    close(book, 'state', book.is, 'steps', steps)
  else
    redis.call('HSET', state, 'state', book.is, 'wake', book.wake)
  end
  if how == 'stuck' then redis.call('HSET', state, 'stuck', ARGV[10]) end
end
if first_due then
  local first = redis.call('ZRANGE', timers, 0, 0, 'WITHSCORES')
  if tonumber(first[2]) >= first_due then
    redis.call('PUBLISH', ARGV[15], string.format('{"due":["%s",%.0f]}', ARGV[16], math.max(0, first_due - now_ms())))
  end
end
return 1
