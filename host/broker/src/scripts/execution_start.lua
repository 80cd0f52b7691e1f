-- Begins an execution; stands behind execution.lua, fields.lua, waiting.lua and mark.lua. Refused when memory is full, as any new call is.
--
-- KEYS[1] the function's call stream
-- KEYS[2] the execution's result key
-- KEYS[3] the mark of its id
-- KEYS[4] its state
-- KEYS[5] its log
-- KEYS[6] the function's executions
-- ARGV[1] its id
-- ARGV[2] how many of the arguments behind are fields of the state
-- ARGV[3…] names and values of those fields, and then of the fact `started`
--
-- Returns
--   1  begun
--   0  it was begun before, or a call of this id was accepted, and has not ended; nothing was changed
--  -1  that one has ended; nothing was changed
local calls, state, log, id = KEYS[1], KEYS[4], KEYS[5], ARGV[1]
if type(redis.pcall('GET', KEYS[2])) == 'string' then return -1 end
local before = open(state, log)
if before.is then return is_open(before) and 0 or -1 end
if is_under_way(KEYS[3]) then return 0 end
local known, started = {}, {}
local last = 2 + ARGV[2]
for i = 3, last do known[#known + 1] = ARGV[i] end
for i = last + 1, #ARGV do started[#started + 1] = ARGV[i] end
begin(calls, state, log, KEYS[6], KEYS[3], id, known, started)
return 1
