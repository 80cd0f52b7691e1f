-- Makes an execution of a call that came like any other; stands behind execution.lua and
-- next_turn.lua. Allowed when memory is full: the call
-- has been accepted.
--
-- KEYS[1] the stream of the function's calls in which it stands
-- KEYS[2] the claims hash of that stream
-- KEYS[3] the execution's state
-- KEYS[4] its log
-- KEYS[5] the function's executions
-- KEYS[6] the mark of its id
-- KEYS[7] the function's delayed set
-- KEYS[8] its turns
-- KEYS[9] the line of those that wait for their turn
-- ARGV[1] consumer group
-- ARGV[2] this host's consumer name
-- ARGV[3] entry id
-- ARGV[4] claims that the lease was given at
-- ARGV[5] the call's id, which is the execution's
-- ARGV[6] the call's key ('' = none); it holds until the execution has begun
-- ARGV[7] how many of the arguments behind are fields of the state
-- ARGV[8…] names and values of those fields, and then of the fact `started`
--
-- Returns
--   1  begun, and the entry is acknowledged
--   2  there is an execution of this id, which has not ended; the entry is acknowledged
--   3  there was one, which has ended; nothing was changed
--   0  lost: this host does not hold the lease any more; nothing was changed
local calls, claims, state = KEYS[1], KEYS[2], KEYS[3]
local group, me, entry = ARGV[1], ARGV[2], ARGV[3]
local pending = redis.pcall('XPENDING', calls, group, entry, entry, 1, me)
if pending.err or #pending == 0 then return 0 end
if (redis.call('HGET', claims, entry) or '0') ~= ARGV[4] then return 0 end
local book = open(state, KEYS[4])
if book.is and not is_open(book) then return 3 end
local said = 2
if not book.is then
  local known, started = {}, {}
  local last = 7 + ARGV[7]
  for i = 8, last do known[#known + 1] = ARGV[i] end
  for i = last + 1, #ARGV do started[#started + 1] = ARGV[i] end
  begin(normal(calls), state, KEYS[4], KEYS[5], KEYS[6], ARGV[5], known, started)
  said = 1
end
redis.call('XACK', calls, group, entry)
redis.call('XDEL', calls, entry)
redis.call('HDEL', claims, entry)
if ARGV[6] ~= '' then next_turn(KEYS[8], KEYS[9], calls, KEYS[7], ARGV[6], ARGV[5]) end
return said
