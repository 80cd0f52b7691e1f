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
local book = open(KEYS[2], '')
if not book.is then return 0 end
if not is_open(book) then return -1 end
redis.call('HDEL', KEYS[2], 'refused')
wake(KEYS[1], book, ARGV[1])
redis.call('HSET', KEYS[2], 'move', ARGV[2], 'wake', book.wake)
return 1
