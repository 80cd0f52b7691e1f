#!lua flags=allow-oom
-- Makes the consumer group of one function, from the start of its stream on, if it is missing. Allowed when memory is
-- full: a host that starts then has to be able to drain what is there.
--
-- KEYS[1] the function's call stream
-- ARGV[1] consumer group
--
-- Returns 1 if it was made, 0 if it was there; what stands in the way is an error.
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if not made.err then return 1 end
if string.find(made.err, 'BUSYGROUP', 1, true) then return 0 end
return made
