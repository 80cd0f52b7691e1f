-- Takes an execution back; stands behind execution.lua. Allowed when memory is full. Whoever runs it writes nothing any more.
--
-- KEYS[1] the execution's state
-- KEYS[2] its log
-- KEYS[3] the function's executions
-- KEYS[4] its result key
-- KEYS[5] the mark of its id
-- KEYS[6] the timers of the function's executions
-- ARGV[1] its id
-- ARGV[2] result document; `"accepted_ms":0` in it is filled in
-- ARGV[3] how long a result is kept, in ms
-- ARGV[4] how long the log of what has ended is kept, in ms
-- ARGV[5] how a reply channel starts
--
-- Returns
--   the result  it is taken back, now or before
--   0  there is no such execution
--  -1  it has ended
local state, log = KEYS[1], KEYS[2]
local book = open(state, log)
if not book.is then return 0 end
if book.is == 'cancelled' then
  -- Asking again is answered as before, also when its result has expired.
  local said = redis.pcall('GET', KEYS[4])
  if type(said) == 'string' then return said end
  return (string.gsub(ARGV[2], '"accepted_ms":0', '"accepted_ms":' .. redis.call('HGET', state, 'began'), 1))
end
if not is_open(book) then return -1 end
-- What somebody put under one of these keys by hand is found here, before anything is written.
if book.digest then redis.call('HLEN', string.sub(components(state, ARGV[1]), 1, -2) .. 's') end
redis.call('ZCARD', KEYS[3])
redis.call('ZCARD', KEYS[6])
if is_whole(book) then append(book, { 'event', 'cancelled' }) end
local known = redis.call('HMGET', state, 'reply', 'began')
local reply = known[1]
local document = string.gsub(ARGV[2], '"accepted_ms":0', '"accepted_ms":' .. known[2], 1)
-- Its timers are of no use any more, and would stand there for as long as it wanted to wait.
for _, field in ipairs(redis.call('HKEYS', state)) do
  local run, step = string.match(field, '^t:(%d+):(%d+)$')
  if run then redis.call('ZREM', KEYS[6], timer(ARGV[1], run, step)) end
end
forget(state)
book.calls = 0
finish(book, KEYS[3], KEYS[4], KEYS[5], ARGV[1], 'cancelled', document, ARGV[3], ARGV[4])
if reply then redis.call('PUBLISH', ARGV[5] .. reply, document) end
return document
