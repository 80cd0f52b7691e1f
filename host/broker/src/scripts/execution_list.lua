#!lua flags=allow-oom
-- Describes executions of one function, the latest first. Those of which nothing is known any more go from the list.
--
-- KEYS[1] the function's executions
-- ARGV[1] how the key of an execution's state starts
-- ARGV[2] behind which one to start: when it began, a dash and its id ('' = at the first)
-- ARGV[3] how many are looked at, at the most
-- ARGV[4] only those in this state ('' = all)
--
-- Returns
--   [1] behind which one to go on; '' = these were the last
--   [2] of each: its id, state, run, steps, length of its log, began, ended ('' = it has not), why it is stuck ('' = it is not),
--       and why it failed
-- Those that begin meanwhile come before it, and it may be gone.
local from, began, last = 0, string.match(ARGV[2], '^(%d+)%-(.+)$')
if began then
  local rank = redis.call('ZREVRANK', KEYS[1], last)
  from = rank and rank + 1 or redis.call('ZCOUNT', KEYS[1], '(' .. began, '+inf')
end
local looked = redis.call('ZREVRANGE', KEYS[1], from, from + ARGV[3] - 1, 'WITHSCORES')
local found, next = {}, ''
for i = 1, #looked, 2 do
  local id = looked[i]
  next = looked[i + 1] .. '-' .. id
  local known = redis.call('HMGET', ARGV[1] .. id, 'state', 'run', 'steps', 'length', 'began', 'ended', 'stuck', 'failed')
  if known[1] and (ARGV[4] == '' or known[1] == ARGV[4]) then
    for n = 1, 8 do known[n] = known[n] or '' end
    if known[1] ~= 'stuck' then known[7] = '' end
    found[#found + 1] = { id, unpack(known, 1, 8) }
  elseif not known[1] then
    redis.call('ZREM', KEYS[1], id)
  end
end
return { #looked < 2 * ARGV[3] and '' or next, found }
