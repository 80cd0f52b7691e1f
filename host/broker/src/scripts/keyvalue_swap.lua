#!lua
-- Writes a value if what stands there is still what was read.
--
-- KEYS[1] the bucket, a hash
-- KEYS[2] how many bytes all buckets of the tenant hold
-- ARGV[1] the most bytes that they may hold
-- ARGV[2] what a pair counts beside its key and value
-- ARGV[3] key
-- ARGV[4] the new value
-- ARGV[5] what was read; left out if nothing was there
--
-- Returns
--   -1    written
--   >=0   nothing was written: they would hold so many bytes
--   -2    nothing was written: something else stands there by now
local bucket, bytes = KEYS[1], KEYS[2]
local most, pair, key, value = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]

local old = redis.call('HGET', bucket, key) or nil
if old ~= ARGV[5] then return -2 end
local more = #value - (old and #old or -(#key + pair))
local now = tonumber(redis.call('GET', bytes) or '0') + more
if more > 0 and now > most then return now end
redis.call('HSET', bucket, key, value)
if more ~= 0 then redis.call('INCRBY', bytes, more) end
return -1
