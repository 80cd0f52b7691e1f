#!lua flags=allow-oom
-- Gives a call up: keeps it among the dead letters with the reason, and ends it with the result `dead`.
--
-- KEYS[1]  the stream of the function's calls in which it stands
-- KEYS[2]  the claims hash of that stream
-- KEYS[3]  the function's dead letters
-- KEYS[4]  the call's result key
-- ARGV[1]  consumer group
-- ARGV[2]  this host's consumer name
-- ARGV[3]  entry id
-- ARGV[4]  claims that the lease was given at
-- ARGV[5]  how long a result is kept, in ms
-- ARGV[6]  reply channel ('' = none)
-- ARGV[7]  result document
-- ARGV[8]  the call's id; written to the dead letter if the call has no field `id` of its own
-- ARGV[9]  how many bytes of the call the dead letter keeps; of a name or value that goes beyond, the head
-- ARGV[10…] fields that the dead letter has beside those of the call, in pairs; a `history` among them takes the place of the
--          call's own
--
-- Returns
--   1  buried
--   2  not buried, only acknowledged: the call had a result already; that one stands and was notified
--   0  lost: this host does not hold the lease any more; nothing was changed
local calls, claims, dead, result = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, me, entry = ARGV[1], ARGV[2], ARGV[3]

local pending = redis.pcall('XPENDING', calls, group, entry, entry, 1, me)
if pending.err or #pending == 0 then return 0 end
if (redis.call('HGET', claims, entry) or '0') ~= ARGV[4] then return 0 end

local document, answer = ARGV[7], 1
-- Something that is no string is no result, and gives way to one.
local standing = redis.pcall('GET', result)
if type(standing) == 'string' then
  document, answer = standing, 2
else
  local found = redis.call('XRANGE', calls, entry, entry)
  local fields = {}
  -- No call has thousands of fields; what stands behind so many is dropped, for Lua hands over 8,000 values at most.
  local old = #found > 0 and found[1][2] or fields
  -- What nobody could run is kept to be looked at, and not to fill the memory.
  local left, cut = tonumber(ARGV[9]), 0
  for i, text in ipairs(old) do
    local kept = text
    if i > 4000 then
      kept = ''
    elseif #text > left then
      kept = string.sub(text, 1, math.min(left, 4096))
    end
    cut, left = cut + #text - #kept, left - #kept
    if i <= 4000 then fields[i] = kept end
  end
  -- The stream in which it stands says its level if the call does not.
  local named, told, level = false, {}, string.match(calls, '}:calls:(%l+)$')
  for i = 10, #ARGV, 2 do told[ARGV[i]] = true end
  for i = #fields - 1, 1, -2 do
    if fields[i] == 'id' then named = named or fields[i + 1] end
    if fields[i] == 'priority' then level = nil end
    if told.history and fields[i] == 'history' then
      table.remove(fields, i)
      table.remove(fields, i)
    end
  end
  if not named then
    named = ARGV[8]
    fields[#fields + 1] = 'id'
    fields[#fields + 1] = named
  end
  if level then
    fields[#fields + 1] = 'priority'
    fields[#fields + 1] = level
  end
  for i = 10, #ARGV do fields[#fields + 1] = ARGV[i] end
  if cut > 0 then
    fields[#fields + 1] = 'cut_bytes'
    fields[#fields + 1] = cut
  end
  local time = redis.call('TIME')
  fields[#fields + 1] = 'died_ms'
  fields[#fields + 1] = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  local letter = redis.call('XADD', dead, '*', unpack(fields))
  -- Which letter is the latest of the call. Of one that bears another id, or several, it is not written down: whoever drops the
  -- letter goes by what it bears.
  if named == ARGV[8] then redis.call('HSET', string.match(dead, '^(.-}:)') .. 'letters', ARGV[8], letter) end
  redis.call('SET', result, document, 'PX', ARGV[5])
end
-- The mark of the call's id goes with the call: its result says from now on that it was there.
local tag, id = string.match(result, '^(.-}:)result:(.+)$')
if id then redis.call('DEL', tag .. 'id:' .. id) end
redis.call('XACK', calls, group, entry)
redis.call('XDEL', calls, entry)
redis.call('HDEL', claims, entry)
if ARGV[6] ~= '' then redis.call('PUBLISH', ARGV[6], document) end
return answer
