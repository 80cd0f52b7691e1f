#!lua
-- Writes pairs into a bucket, all or none, if the tenant's bytes allow it.
--
-- KEYS[1] the bucket, a hash
-- KEYS[2] how many bytes all buckets of the tenant hold
-- ARGV[1] the most bytes that they may hold
-- ARGV[2] what a pair counts beside its key and value
-- ARGV[3] key, ARGV[4] value, and so on; of the same key twice the last value stays
--
-- Returns
--   -1  written
--   >=0 nothing was written: they would hold so many bytes
local bucket, bytes = KEYS[1], KEYS[2]
local most, pair = tonumber(ARGV[1]), tonumber(ARGV[2])

-- The size of each value as it will be, by key.
local sizes = {}
local more = 0
for i = 3, #ARGV, 2 do
  local key, size = ARGV[i], #ARGV[i + 1]
  local old = sizes[key]
  if old == nil and redis.call('HEXISTS', bucket, key) == 1 then old = redis.call('HSTRLEN', bucket, key) end
  if old == nil then more = more + #key + pair + size else more = more + size - old end
  sizes[key] = size
end
local now = tonumber(redis.call('GET', bytes) or '0') + more
-- Whoever is over already, because less was allowed later, may still write what makes it less.
if more > 0 and now > most then return now end
for i = 3, #ARGV, 2 do redis.call('HSET', bucket, ARGV[i], ARGV[i + 1]) end
if more ~= 0 then redis.call('INCRBY', bytes, more) end
return -1
