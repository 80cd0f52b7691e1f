-- Asks for an execution to be moved to another component; stands behind execution.lua. Whoever runs it next tries that over its
-- whole log. Refused when memory is full.
--
-- KEYS[1] the function's call stream
-- KEYS[2] the execution's state
-- ARGV[1] its id
-- ARGV[2] the component's digest; 'newest' = the one that its host has of the function
--
-- Returns
--   1  it is asked for
--   0  there is no such execution
--  -1  it has ended
local state = KEYS[2]
if redis.call('EXISTS', state) == 0 then return 0 end
if not is_open(state) then return -1 end
redis.call('HSET', state, 'move', ARGV[2])
redis.call('HDEL', state, 'refused')
wake(KEYS[1], state, ARGV[1])
return 1
