#!lua flags=allow-oom
-- Drops dead letters of one function for good. The results of their calls stay.
--
-- KEYS[1] the function's dead letters
-- KEYS[2] which letter is the latest of each call
-- ARGV[…] two for each letter: its entry id, the call's id ('' = it has none)
--
-- Returns how many were there.
local dropped = 0
for i = 1, #ARGV, 2 do
  local letter, call = ARGV[i], ARGV[i + 1]
  dropped = dropped + redis.call('XDEL', KEYS[1], letter)
  if call ~= '' and redis.call('HGET', KEYS[2], call) == letter then redis.call('HDEL', KEYS[2], call) end
end
return dropped
