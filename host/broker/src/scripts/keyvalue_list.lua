#!lua flags=no-writes
-- Gives a page of a bucket's keys, without its values. A key that is there all the time is given; one may come twice.
--
-- KEYS[1] the bucket, a hash
-- KEYS[2] how many bytes all buckets of the tenant hold
-- ARGV[1] where to go on: 0, or what the page before ended with
-- ARGV[2] about how many keys
-- ARGV[3] about how many bytes, values included, may be looked at for it
--
-- Returns where to go on (0 = that was all), then keys.
local length = redis.call('HLEN', KEYS[1])
local bytes = math.max(tonumber(redis.call('GET', KEYS[2]) or '0'), 1)
-- The scan copies values too, so pages are short where values may be large.
local count = math.max(1, math.min(tonumber(ARGV[2]), math.floor(tonumber(ARGV[3]) * length / bytes)))
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', count)
local answer = { page[1] }
for i = 1, #page[2], 2 do answer[#answer + 1] = page[2][i] end
return answer
