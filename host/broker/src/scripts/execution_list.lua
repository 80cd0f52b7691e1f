#!lua flags=no-writes
-- Describes executions of one function, the latest first.
--
-- KEYS[1] the function's executions
-- ARGV[1] how the key of an execution's state starts
-- ARGV[2] where to start: a rank
-- ARGV[3] how many are looked at, at the most
-- ARGV[4] only those in this state ('' = all)
--
-- Returns
--   [1] how many were looked at
--   [2] of each: its id, state, run, steps, length of its log, began, ended ('' = it has not), and why it is stuck ('' = it is not)
local looked = redis.call('ZREVRANGE', KEYS[1], ARGV[2], ARGV[2] + ARGV[3] - 1)
local found = {}
for _, id in ipairs(looked) do
  local known = redis.call('HMGET', ARGV[1] .. id, 'state', 'run', 'steps', 'length', 'began', 'ended', 'stuck')
  if known[1] and (ARGV[4] == '' or known[1] == ARGV[4]) then
    for i = 1, 7 do known[i] = known[i] or '' end
    if known[1] ~= 'stuck' then known[7] = '' end
    found[#found + 1] = { id, unpack(known, 1, 7) }
  end
end
return { #looked, found }
