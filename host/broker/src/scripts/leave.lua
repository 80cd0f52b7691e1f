#!lua flags=allow-oom
-- Takes a host's consumer out of the group of one call stream, if nothing is pending for it there.
--
-- KEYS[1] a function's stream of calls of one level
-- ARGV[1] consumer group
-- ARGV[2] the consumer
--
-- Returns 1 if the consumer is gone, 0 if it stays because entries are pending for it.
local calls, group, me = KEYS[1], ARGV[1], ARGV[2]
local pending = redis.pcall('XPENDING', calls, group, '-', '+', 1, me)
if pending.err then return 1 end
if #pending > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', calls, group, me)
return 1
