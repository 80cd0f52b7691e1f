-- What scripts do with executions. It is the start of other scripts, and no script by itself.
--
-- `state` is a hash: what is known of an execution beside its log.
--   state     running, stuck, completed, failed or cancelled
--   run       how often it was begun anew, and one
--   length    how many entries the log has
--   chain     the chain of the last of them
--   bytes     how many bytes they have, names and values
--   steps     how many steps the function has asked for
--   wake      the entry of its wake in the stream; 1 = it stands among the timers; 0 = there is none
--   began, ended  in Unix ms
--   c:<run>:<step>  a call of this step has not ended: its id
--   calls     how many such calls there are
--   t:<run>:<step>  a timer of this step has not fired
--   e:<id>    an event with this id came: its position, and the run in which it came
--   parent    whose step it is, if it is one: step, run, function and id of that execution
--   digest    the component that it runs on
--   move      the component that it is to be moved to, or 'newest'; whoever runs it next tries that
--   refused   a component that it could not be moved to, and why
--   stuck     why it cannot go on, if it is stuck
--   failed    why it failed, if it did
-- and others that hosts write at its start.
-- `log` is a stream whose entries are numbered 1-0, 2-0 and so on.

local clock
local function now_ms()
  local time = clock or redis.call('TIME')
  clock = time
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- What a script knows of an execution while it writes to its log; `more` is one more field that it asks for. `close` writes down
-- what changed.
local function open(state, log, more)
  local known = redis.call('HMGET', state, 'state', 'run', 'length', 'chain', 'bytes', 'wake', 'calls', 'steps', 'move', 'digest', 'parent',
    more or 'state')
  return {
    state = state, log = log, is = known[1], run = known[2], length = tonumber(known[3]) or 0, chain = known[4] or '',
    bytes = tonumber(known[5]) or 0, wake = known[6] or '0', calls = tonumber(known[7]) or 0, steps = known[8], wish = known[9] or '',
    digest = known[10], parent = known[11], more = known[12],
  }
end

-- Behind it stand names and values of other fields.
local function close(book, ...)
  redis.call('HSET', book.state, 'length', book.length, 'chain', book.chain, 'bytes', string.format('%.0f', book.bytes), 'calls', book.calls,
    'wake', book.wake, ...)
end

-- Whether the log has as many entries as its execution says. It is written to by these scripts alone; that its last entry is not
-- beyond its place, XADD says.
local function is_whole(book)
  return redis.call('XLEN', book.log) == book.length
end

-- Appends one fact: names and values in turn. Each entry is chained to the one before it. False if somebody else has written there.
local function append(book, fields)
  fields[#fields + 1] = 'at'
  fields[#fields + 1] = string.format('%.0f', now_ms())
  local parts = { book.chain }
  for _, text in ipairs(fields) do
    parts[#parts + 1] = #text .. ':' .. text
    book.bytes = book.bytes + #text
  end
  local chain = redis.sha1hex(table.concat(parts))
  fields[#fields + 1] = 'chain'
  fields[#fields + 1] = chain
  local added = redis.pcall('XADD', book.log, string.format('%.0f-0', book.length + 1), unpack(fields))
  if type(added) ~= 'string' then return false end
  book.chain, book.length = chain, book.length + 1
  return true
end

-- Sees to it that a host runs it: there is one entry for it, and no second. `close` comes behind it. Where somebody has put
-- something else in the place of the stream there is none, until the next is wanted.
local function wake(calls, book, id)
  if book.wake == '1' then return end
  -- One that somebody deleted by hand would never come.
  if book.wake ~= '0' and #redis.pcall('XRANGE', calls, book.wake, book.wake) > 0 then return end
  local entry = redis.pcall('XADD', calls, '*', 'payload', '', 'id', id, 'execution', '1')
  book.wake = type(entry) == 'string' and entry or '0'
end

-- Whether a host that runs it would learn of anything. A step's calls are waited for together: none of them wakes it before the
-- last has ended, and nothing else can either. What is stuck may be mended by whatever comes.
local function is_of_use(book)
  return book.calls <= 0 or book.is == 'stuck'
end

-- How a timer stands among the timers.
local function timer(id, run, step)
  return cmsgpack.pack({ 'execution', id, 'run', run, 'step', step })
end

-- Whether it has begun and not ended.
local function is_open(book)
  return book.is == 'running' or book.is == 'stuck'
end

-- The stream in which wakes stand, by any call stream of the function.
local function normal(calls)
  return string.match(calls, '^(.-}:)') .. 'calls'
end

-- Makes an execution of which there is nothing yet, with the fact `started`, and has it run.
local function begin(calls, state, log, all, mark, id, known, started)
  local now = string.format('%.0f', now_ms())
  -- What somebody put there by hand is found before anything is written.
  redis.call('ZCARD', all)
  redis.call('HSET', state, 'state', 'running', 'run', '1', 'steps', '0', 'wake', '0', 'began', now, unpack(known))
  redis.call('ZADD', all, now, id)
  redis.call('SET', mark, 'execution')
  local book = { state = state, log = log, is = 'running', length = 0, chain = '', bytes = 0, wake = '0', calls = 0 }
  append(book, started)
  wake(calls, book, id)
  close(book)
end

-- A call of a step has ended, or its timer has fired: `mark` is what stands in the state for it. Nothing is done twice, and a call
-- is heard by the run that made it alone: the id of an execution may be used again once the last of that id is forgotten.
local function answer(calls, state, log, id, mark, fields, call)
  local book = open(state, log, mark)
  if not is_open(book) or not book.more or call and book.more ~= call then return false end
  redis.call('HDEL', state, mark)
  if string.sub(mark, 1, 2) == 'c:' then book.calls = book.calls - 1 end
  -- A log that is not what it should be is left as it is: whoever runs it says so.
  local whole = is_whole(book)
  if whole then
    local bytes = 0
    for _, text in ipairs(fields) do bytes = bytes + #text end
    -- Whoever runs it reads all of the log, so an answer that it has no room for becomes a failure.
    if fields[5] == 'result' and book.bytes + bytes > LOG_BYTES_MAX then
      local call = string.match(fields[6], '^{"status":"%l+","id":"([^"]+)"') or 'unknown'
      local why = string.format('the answer has no room in the log of the execution, which may have %.0f bytes', LOG_BYTES_MAX)
      fields[6] = string.format(
        '{"status":"error","id":"%s","type":"application/json","length":0,"error":{"code":"log-full","message":"%s"}}\n', call, why)
    end
    whole = append(book, fields)
  end
  if is_of_use(book) or not whole then wake(calls, book, id) end
  if whole then close(book) else redis.call('HSET', state, 'calls', book.calls, 'wake', book.wake) end
  return true
end

-- What was asked for and not answered is of no use any more, nor are the ids of events that came before the run `last`.
local function forget(state, last)
  local known = redis.call('HGETALL', state)
  for i = 1, #known, 2 do
    local kind = string.sub(known[i], 1, 2)
    local came = last and kind == 'e:' and tonumber(string.match(known[i + 1], ' (%d+)$') or 1)
    if kind == 'c:' or kind == 't:' or came and came < last then redis.call('HDEL', state, known[i]) end
  end
end

-- How the keys of the function's components start, by the key of one of its executions.
local function components(state, id)
  return string.sub(state, 1, #state - #id - #'exec:') .. 'component:'
end

-- It runs on another component no more, which goes when nobody has needed it for so long.
local function unpin(book, id, kept)
  if not book.digest then return end
  local start = components(book.state, id)
  if redis.call('HINCRBY', string.sub(start, 1, -2) .. 's', book.digest, -1) <= 0 then
    redis.call('HDEL', string.sub(start, 1, -2) .. 's', book.digest)
    redis.call('PEXPIRE', start .. book.digest, kept)
  end
  redis.call('HDEL', book.state, 'digest')
  book.digest = false
end

-- It runs on this component, which is kept for as long as it does.
local function pin(book, id, digest, kept)
  local start = components(book.state, id)
  unpin(book, id, kept)
  redis.call('HSET', book.state, 'digest', digest)
  redis.call('HINCRBY', string.sub(start, 1, -2) .. 's', digest, 1)
  redis.call('PERSIST', start .. digest)
  book.digest = digest
end

-- If it is a step of another execution, that learns of its end.
local function tell_parent(book, document, own)
  if not book.parent then return end
  local step, run, parent, id = string.match(book.parent, '^(%d+) (%d+) (%S+) (%S+)$')
  local tag = string.match(book.state, '^(.-){') .. '{' .. parent .. '}:'
  answer(tag .. 'calls', tag .. 'exec:' .. id, tag .. 'log:' .. id, id, 'c:' .. run .. ':' .. step,
    { 'event', 'call-completed', 'step', step, 'result', document }, own)
end

-- It has its end: the result is there for whoever asks, and what is known of it is kept for so long. Behind them stand names and
-- values of other fields.
local function finish(book, all, result, mark, id, word, document, result_ttl, kept, ...)
  local state, now = book.state, now_ms()
  unpin(book, id, kept)
  book.wake = '0'
  close(book, 'state', word, 'ended', string.format('%.0f', now), ...)
  if book.wish ~= '' then redis.call('HDEL', state, 'move') end
  redis.call('SET', result, document, 'PX', result_ttl)
  redis.call('DEL', mark)
  redis.call('PEXPIRE', state, kept)
  redis.call('PEXPIRE', book.log, kept)
  -- What somebody put in the place of the parent by hand hears nothing.
  pcall(tell_parent, book, document, id)
  if now % 8 > 0 then return end
  -- Those whose time is over go from the list, a few at a time, wherever in it they stand.
  local first = now % math.max(1, redis.call('ZCARD', all))
  for _, from in ipairs({ 0, first }) do
    for _, other in ipairs(redis.call('ZRANGE', all, from, from + 7)) do
      local key = string.sub(state, 1, #state - #id) .. other
      if redis.call('EXISTS', key) == 0 then redis.call('ZREM', all, other) end
    end
  end
end
