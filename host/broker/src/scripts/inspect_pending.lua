-- Describes what hosts have in their hands of one function; begins with inspect.lua.
--
-- KEYS[1] the function's stream of calls of one level
-- KEYS[2] the claims hash of that stream
-- ARGV[1] consumer group
-- ARGV[2] how many entries are described, at the most
--
-- Returns a description of each, the oldest entry first; none if there is no such stream or group.
local rows = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[2])
if rows.err then return {} end
local answer = {}
for _, row in ipairs(rows) do
  local found = redis.call('XRANGE', KEYS[1], row[1], row[1])
  if #found > 0 then answer[#answer + 1] = describe(KEYS[2], found[1], row) end
end
return answer
