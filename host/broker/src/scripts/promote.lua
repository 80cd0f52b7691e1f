-- Moves calls whose wait is over from the delayed set to the call stream of one function.
--
-- KEYS[1] the function's call stream
-- KEYS[2] its delayed set
-- ARGV[1] how many calls may be moved at the most
--
-- Returns
--   [1] how many were moved
--   [2] ms until the next one is due; 0 = it is already; -1 = none waits
local calls, delayed = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGE', delayed, '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
for _, call in ipairs(due) do
  redis.call('XADD', calls, '*', unpack(cmsgpack.unpack(call)))
  redis.call('ZREM', delayed, call)
end
local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
if #first == 0 then return { #due, -1 } end
return { #due, math.max(0, tonumber(first[2]) - now) }
