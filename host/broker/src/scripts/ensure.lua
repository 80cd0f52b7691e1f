#!lua flags=allow-oom
-- Makes the consumer group of one function, from the start of its stream on, if it is missing, and those of its streams for
-- high and low calls if there are such streams. Allowed when memory is full: a host that starts then has to be able to
-- drain what is there.
--
-- KEYS[1] the function's call stream; those of the other levels are named after it
-- ARGV[1] consumer group
--
-- Returns which other streams there are: 0 = none, 1 = for high calls, 2 = for low ones, 3 = both. One under whose key
-- something else stands is none. What stands in the way of the function's own stream is an error.
local function make(stream)
  local made = redis.pcall('XGROUP', 'CREATE', stream, ARGV[1], '0', 'MKSTREAM')
  return not (made.err and not string.find(made.err, 'BUSYGROUP', 1, true)), made
end

local is_made, made = make(KEYS[1])
if not is_made then return made end
local levels = 0
for number, level in ipairs({ 'high', 'low' }) do
  local stream = KEYS[1] .. ':' .. level
  if redis.call('TYPE', stream).ok == 'stream' and make(stream) then levels = levels + number end
end
return levels
