-- Searches a part of a call stream for a call by the id that its caller chose; begins with inspect.lua.
--
-- KEYS[1] the function's stream of calls of one level
-- KEYS[2] the claims hash of that stream
-- ARGV[1] consumer group
-- ARGV[2] the call's id
-- ARGV[3] where to start, as XRANGE has it
-- ARGV[4] how many entries are looked at, at the most
--
-- Returns
--   [1] where to go on; '' = the call was found, or the stream is at its end
--   [2] how many bytes were looked at
--   [3] the description of the call's entry, if it was found
local page = redis.pcall('XRANGE', KEYS[1], ARGV[3], '+', 'COUNT', ARGV[4])
-- What is no stream has no call.
if page.err then return { '', 0 } end
local bytes = 0
for _, entry in ipairs(page) do
  bytes = bytes + weight(entry[2])
  if field(entry[2], 'id') == ARGV[2] and field(entry[2], 'event') == '' then
    return { '', bytes, describe(KEYS[2], entry, row_of(KEYS[1], ARGV[1], entry[1])) }
  end
end
if #page < tonumber(ARGV[4]) then return { '', bytes } end
return { '(' .. page[#page][1], bytes }
