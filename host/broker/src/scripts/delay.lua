-- Accepts a call that is to wait: it stands in the delayed set until it is due, and not in the stream; begins with mark.lua.
--
-- Refused when memory is full, as any new call is.
--
-- KEYS[1] the function's call stream
-- KEYS[2] its delayed set
-- KEYS[3] the call's result key
-- KEYS[4] the mark of its id
-- ARGV[1] consumer group
-- ARGV[2] how long it waits, in ms
-- ARGV[3] the channel on which hosts are told
-- ARGV[4] what they are told if no other call is due before it: whoever wakes an earlier one sees this one too
-- ARGV[5] how long the mark (accept.lua) lasts if nothing ends the call, in ms
-- ARGV[6…] the call's fields, in pairs, its id among them
--
-- Returns when the call is due, in Unix ms of Redis's clock; 0 = it has a result already, which stands;
-- -1 = it was accepted before and has not ended. Nothing was changed then.
local calls, delayed = KEYS[1], KEYS[2]
-- Something that is no string is no result.
if type(redis.pcall('GET', KEYS[3])) == 'string' then return 0 end
if is_under_way(KEYS[4]) then return -1 end
-- By its stream the function is known to those who list them.
if redis.call('EXISTS', calls) == 0 then redis.call('XGROUP', 'CREATE', calls, ARGV[1], '0', 'MKSTREAM') end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = now + ARGV[2]
local fields = {}
for i = 6, #ARGV do fields[#fields + 1] = ARGV[i] end
for _, text in ipairs({ 'attempt', '1', 'accepted', string.format('%.0f', now) }) do fields[#fields + 1] = text end
local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
redis.call('ZADD', delayed, due, cmsgpack.pack(fields))
redis.call('SET', KEYS[4], 'delayed ' .. string.format('%.0f', due), 'PX', ARGV[5])
if #first == 0 or due < tonumber(first[2]) then redis.call('PUBLISH', ARGV[3], ARGV[4]) end
return due
