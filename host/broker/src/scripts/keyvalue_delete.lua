#!lua flags=allow-oom
-- Takes pairs out of a bucket.
--
-- KEYS[1] the bucket, a hash
-- KEYS[2] how many bytes all buckets of the tenant hold
-- ARGV[1] what a pair counts beside its key and value
-- ARGV[2] and on: keys; one that is not there is no error
--
-- Returns how many pairs were taken out.
local bucket, bytes = KEYS[1], KEYS[2]
local pair = tonumber(ARGV[1])

local less, gone = 0, 0
for i = 2, #ARGV do
  local size = redis.call('HSTRLEN', bucket, ARGV[i])
  if redis.call('HDEL', bucket, ARGV[i]) == 1 then
    less = less + #ARGV[i] + pair + size
    gone = gone + 1
  end
end
-- Below zero only if somebody else wrote there; a tenant is not to gain by it.
if gone > 0 and redis.call('DECRBY', bytes, less) <= 0 then redis.call('DEL', bytes) end
return gone
