#!lua flags=no-writes
-- Reads several values, unless they are too much to hand over at once.
--
-- KEYS[1] the bucket, a hash
-- ARGV[1] the most bytes that are handed over
-- ARGV[2] and on: keys
--
-- Returns
--   array the values, in order; nothing where there is none
--   >=0   so many bytes they have together, which is too many
local size = 0
for i = 2, #ARGV do size = size + redis.call('HSTRLEN', KEYS[1], ARGV[i]) end
if size > tonumber(ARGV[1]) then return size end
local values = {}
for i = 2, #ARGV do values[i - 1] = redis.call('HGET', KEYS[1], ARGV[i]) end
return values
