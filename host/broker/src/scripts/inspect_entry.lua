-- Describes one entry of a call stream; begins with inspect.lua.
--
-- KEYS[1] the function's stream of calls of one level
-- KEYS[2] the claims hash of that stream
-- ARGV[1] consumer group
-- ARGV[2] entry id
--
-- Returns the description of the entry in a list; an empty list if it is not there.
local found = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])
if #found == 0 then return {} end
return { describe(KEYS[2], found[1], row_of(KEYS[1], ARGV[1], ARGV[2])) }
