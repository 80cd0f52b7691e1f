#!lua
-- Adds to a number in a bucket, which is kept as decimal text; none is 0.
--
-- KEYS[1] the bucket, a hash
-- KEYS[2] how many bytes all buckets of the tenant hold
-- ARGV[1] the most bytes that they may hold
-- ARGV[2] what a pair counts beside its key and value
-- ARGV[3] key
-- ARGV[4] what is added, a 64-bit number with a sign
--
-- Returns
--   text the new number: Lua's own numbers are too small for it
--   >=0  nothing was written: they would hold so many bytes
--   -1   nothing was written: what stands there is no number, or the sum needs more than 64 bits
local bucket, bytes = KEYS[1], KEYS[2]
local most, pair, key = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]

local old = redis.call('HGET', bucket, key)
local sum = redis.pcall('HINCRBY', bucket, key, ARGV[4])
if type(sum) == 'table' and sum.err then return -1 end
local new = redis.call('HGET', bucket, key)
local more = #new - (old and #old or -(#key + pair))
local now = tonumber(redis.call('GET', bytes) or '0') + more
if more > 0 and now > most then
  if old then redis.call('HSET', bucket, key, old) else redis.call('HDEL', bucket, key) end
  return now
end
if more ~= 0 then redis.call('INCRBY', bytes, more) end
return new
