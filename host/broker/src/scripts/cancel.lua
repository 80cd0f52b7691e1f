-- How a call is taken back. It stands before the cancelling scripts, behind execution.lua, next_turn.lua and fields.lua, and
-- is no script by itself; all of them have these keys and arguments. Allowed when memory is full: what is taken out frees more than its result takes.
--
-- KEYS[1]  the function's stream of calls of one level
-- KEYS[2]  the claims hash of that stream
-- KEYS[3]  the function's delayed set
-- KEYS[4]  the call's result key
-- KEYS[5]  the mark of its id
-- KEYS[6]  the turns
-- KEYS[7]  the line of those that wait for their turn
-- KEYS[8…] of the execution whose step it is: its function's call stream, its state and its log (left out = it is none)
-- ARGV[1]  consumer group
-- ARGV[2]  the call's id
-- ARGV[3]  how long a result is kept, in ms
-- ARGV[4]  result document; `"attempts":0` and `"accepted_ms":0` in it are filled in
-- ARGV[5]  how a reply channel starts
-- ARGV[6]  what a reply has to start with, so that its caller is told ('' = anything)
-- ARGV[7]  how a host's channel starts
-- ARGV[8]  the function
-- ARGV[9]  a host whose settling connections are cut: the call is taken from it ('' = from none)
-- ARGV[10] where to start: an entry as XRANGE has it, or as waiting.lua has it
-- ARGV[11] where to end, as XRANGE has it
-- ARGV[12] how many are looked at, at the most
-- ARGV[13] that execution; '-' = what it says of one is not to be believed, '' = nobody has asked yet
-- ARGV[14] its run
-- ARGV[15] its step
--
-- Returns one of
--   'ended', the result   it had a result already, which stands
--   'out', the result     it is taken back: this is its result from now on
--   'held', host, entry   a host has it and was told to stop it; nothing was changed
--   'next', where, bytes  it is not among those, which have so many bytes; what comes next starts there
--   'step', what it says  it is a step of an execution; nothing was changed
--   'none'                it is not among those, and there are no more
local calls, claims, delayed, result = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, id = ARGV[1], ARGV[2]

-- The first result of a call is its only one. Something that is no string is no result.
local function standing()
  local found = redis.pcall('GET', result)
  return type(found) == 'string' and found or nil
end

-- What it says of an execution whose step it is, if somebody has to look at that before it is ended.
local function step_of(fields)
  local said = field(fields, 'x-baton-step')
  return said ~= '' and ARGV[13] == '' and { 'step', said } or nil
end

-- Ends the call, of which so many attempts were begun.
local function finish(fields, attempts, accepted)
  local document = string.gsub(ARGV[4], '"attempts":0', '"attempts":' .. string.format('%.0f', attempts), 1)
  document = string.gsub(document, '"accepted_ms":0', '"accepted_ms":' .. string.format('%.0f', accepted), 1)
  redis.call('SET', result, document, 'PX', ARGV[3])
  redis.call('DEL', KEYS[5])
  if KEYS[8] then
    answer(KEYS[8], KEYS[9], KEYS[10], ARGV[13], 'c:' .. ARGV[14] .. ':' .. ARGV[15],
      { 'event', 'call-completed', 'step', ARGV[15], 'result', document }, id)
  end
  local key = field(fields, 'key')
  if key ~= '' then next_turn(KEYS[6], KEYS[7], calls, delayed, key, id) end
  local reply = field(fields, 'reply')
  if reply ~= '' and string.sub(reply, 1, #ARGV[6]) == ARGV[6] then
    redis.call('PUBLISH', ARGV[5] .. reply, document)
  end
  return { 'out', document }
end
