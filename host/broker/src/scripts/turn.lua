#!lua flags=allow-oom
-- Asks whether it is a call's turn among those with its key. If it is not, the call waits outside of the stream, as delayed
-- calls do, until next_turn.lua puts it back. Asked again for the same call it answers the same: the turn is the call's and
-- not its host's.
--
-- KEYS[1] the stream of the function's calls in which it stands
-- KEYS[2] the claims hash of that stream
-- KEYS[3] the function's delayed set
-- KEYS[4] the turns
-- KEYS[5] the line
-- ARGV[1] consumer group
-- ARGV[2] this host's consumer name
-- ARGV[3] entry id
-- ARGV[4] claims that the lease was given at
-- ARGV[5] the call's id
-- ARGV[6] the number of its next attempt
-- ARGV[7] when the call was first accepted, Unix ms
-- ARGV[8] its key
-- ARGV[9] the score of what waits for its turn in the delayed set
--
-- Returns
--   1  it is its turn
--   0  it waits; the entry is acknowledged
--  -1  lost: this host does not hold the lease any more; nothing was changed
local calls, claims, delayed, turns, line = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, me, entry, id, key = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[8]

local pending = redis.pcall('XPENDING', calls, group, entry, entry, 1, me)
if pending.err or #pending == 0 then return -1 end
if (redis.call('HGET', claims, entry) or '0') ~= ARGV[4] then return -1 end

local holder = redis.call('HGET', turns, key)
if not holder or holder == id then
  redis.call('HSET', turns, key, id)
  return 1
end
local found = redis.call('XRANGE', calls, entry, entry)
if #found == 0 then return -1 end
local fields, old = {}, found[1][2]
-- Among those that wait it has no stream that could say its level.
local level = string.match(calls, '}:calls:(%l+)$')
for i = 1, #old, 2 do
  local name = old[i]
  if name == 'priority' then level = nil end
  if name ~= 'id' and name ~= 'attempt' and name ~= 'accepted' then
    fields[#fields + 1] = name
    fields[#fields + 1] = old[i + 1]
  end
end
if level then
  fields[#fields + 1] = 'priority'
  fields[#fields + 1] = level
end
for _, text in ipairs({ 'id', id, 'attempt', ARGV[6], 'accepted', ARGV[7] }) do fields[#fields + 1] = text end
local call = cmsgpack.pack(fields)
local ms, number = string.match(entry, '^(%d+)-(%d+)$')
local order = string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #number) .. number
redis.call('ZADD', delayed, ARGV[9], call)
redis.call('ZADD', line, 0, key .. '\0' .. order .. '\0' .. call)
-- All that wait share one score, so the mark says the place in the line.
redis.call('SET', string.match(calls, '^(.-}:)') .. 'id:' .. id, 'turn ' .. order .. ' ' .. key, 'PX', 604800000)
redis.call('XACK', calls, group, entry)
redis.call('XDEL', calls, entry)
redis.call('HDEL', claims, entry)
return 0
