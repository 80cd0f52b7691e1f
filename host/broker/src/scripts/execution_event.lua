-- Takes an event for an execution; stands behind execution.lua. Refused when memory is full.
--
-- KEYS[1] the function's call stream
-- KEYS[2] the execution's state
-- KEYS[3] its log
-- ARGV[1] its id
-- ARGV[2] the event's id
-- ARGV[3] how many entries a log may have
-- ARGV[4] how many bytes
-- ARGV[5…] the fact `event-received`: names and values
--
-- Returns
--   the position of the event in the log, also if it came before
--    0  there is no such execution
--   -1  it has ended
--   -2  its log is as long as it may be
--   -3  its log is not what it should be; nothing was changed
local state, log = KEYS[2], KEYS[3]
local known = redis.call('HMGET', state, 'e:' .. ARGV[2], 'state', 'length', 'bytes')
if known[1] then return tonumber(known[1]) end
if not known[2] then return 0 end
if known[2] ~= 'running' and known[2] ~= 'stuck' then return -1 end
if not is_whole(state, log, known[3]) then return -3 end
if tonumber(known[3]) >= tonumber(ARGV[3]) or (tonumber(known[4]) or 0) >= tonumber(ARGV[4]) then return -2 end
local fact = {}
for i = 5, #ARGV do fact[#fact + 1] = ARGV[i] end
append(state, log, fact)
local position = tonumber(known[3]) + 1
redis.call('HSET', state, 'e:' .. ARGV[2], position)
wake(KEYS[1], state, ARGV[1])
return position
