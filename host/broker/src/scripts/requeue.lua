#!lua flags=allow-oom
-- Puts a call back: at once, or after a wait. Its payload never leaves Redis. It keeps its level: what its field `priority`
-- says, or else that of the stream in which it stands.
--
-- KEYS[1] the stream of the function's calls in which it stands
-- KEYS[2] the claims hash of that stream
-- KEYS[3] the function's delayed set; a run of an execution waits among the timers, which are named likewise
-- ARGV[1] consumer group
-- ARGV[2] this host's consumer name
-- ARGV[3] entry id
-- ARGV[4] claims that the lease was given at
-- ARGV[5] the call's id
-- ARGV[6] the number of its next attempt
-- ARGV[7] when the call was first accepted, Unix ms
-- ARGV[8] how long it waits, in ms; -1 = it does not, and stands in the stream again at once
-- ARGV[9] 'accepted' = the wait is counted from when the call was first accepted, else from now
-- ARGV[10] the channel on which hosts are told of it, if no other call is due before it: whoever wakes an earlier one sees
--          this one too
-- ARGV[11] the function's name
-- ARGV[12] what is known of its attempts, as JSON ('' or left out = what stood there)
--
-- From here on the call's id has a mark, by which it is found: it stands elsewhere than where it was accepted. That of an event
-- has none: it is its execution's, and another may have one of the same id.
--
-- Returns
--   -1  lost: this host does not hold the lease any more; nothing was changed
--   >=0 done: when the call is due, in Unix ms of Redis's clock (0 = at once)
local calls, claims, delayed = KEYS[1], KEYS[2], KEYS[3]
local group, me, entry = ARGV[1], ARGV[2], ARGV[3]
local wait = tonumber(ARGV[8])
local history = ARGV[12] and ARGV[12] ~= '' and ARGV[12]

local pending = redis.pcall('XPENDING', calls, group, entry, entry, 1, me)
if pending.err or #pending == 0 then return -1 end
if (redis.call('HGET', claims, entry) or '0') ~= ARGV[4] then return -1 end

local found = redis.call('XRANGE', calls, entry, entry)
if #found == 0 then return -1 end
local fields = {}
local old = found[1][2]
local stands = string.match(calls, '}:calls:(%l+)$')
local base = stands and string.sub(calls, 1, -#stands - 2) or calls
local level, tells, wakes = nil, false, false
for i = 1, #old, 2 do
  local name = old[i]
  if name == 'priority' then level = old[i + 1] end
  if name == 'execution' then wakes = true end
  if name == 'event' then tells = true end
  if name ~= 'id' and name ~= 'attempt' and name ~= 'accepted' and not (history and name == 'history') then
    fields[#fields + 1] = name
    fields[#fields + 1] = old[i + 1]
  end
end
if history then
  fields[#fields + 1] = 'history'
  fields[#fields + 1] = history
end
if stands and not level then
  level = stands
  fields[#fields + 1] = 'priority'
  fields[#fields + 1] = level
end
for _, text in ipairs({ 'id', ARGV[5], 'attempt', ARGV[6], 'accepted', ARGV[7] }) do
  fields[#fields + 1] = text
end

local due, where = 0, nil
if wait < 0 then
  level = (level == 'high' or level == 'low') and level
  local kind = level and redis.call('TYPE', base .. ':' .. level).ok
  if kind and kind ~= 'stream' and kind ~= 'none' then
    -- As promote.lua does it.
    level = nil
    for i = 1, #fields, 2 do
      if fields[i] == 'priority' then fields[i + 1] = 'normal' end
    end
  end
  where = redis.call('XADD', level and base .. ':' .. level or base, '*', unpack(fields))
  if level then where = where .. '-' .. level end
else
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  due = wait + (ARGV[9] == 'accepted' and tonumber(ARGV[7]) or now)
  local set = wakes and not tells and string.match(calls, '^(.-}:)') .. 'timers' or delayed
  local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  where = 'delayed ' .. string.format('%.0f', due)
  redis.call('ZADD', set, due, cmsgpack.pack(fields))
  if ARGV[10] and (#first == 0 or due < tonumber(first[2])) then
    redis.call('PUBLISH', ARGV[10], string.format('{"due":["%s",%.0f]}', ARGV[11], math.max(0, due - now)))
  end
end
local tag = string.match(calls, '^(.-}:)')
if not wakes then
  redis.call('SET', tag .. 'id:' .. ARGV[5], where, 'PX', 604800000 + math.max(wait, 0))
elseif not tells and redis.pcall('HEXISTS', tag .. 'exec:' .. ARGV[5], 'state') == 1 then
  -- An execution is found by its id as such, and knows where its wake stands.
  redis.call('HSET', tag .. 'exec:' .. ARGV[5], 'wake', wait < 0 and where or '1')
end
redis.call('XACK', calls, group, entry)
redis.call('XDEL', calls, entry)
redis.call('HDEL', claims, entry)
return due
