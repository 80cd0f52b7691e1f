-- Searches a part of a delayed set for a call; begins with waiting.lua and inspect.lua.
--
-- KEYS[1] the function's delayed set
-- KEYS[2] the line of those that wait for their turn
-- ARGV[1] the call's id
-- ARGV[2] where to start, as waiting.lua has it
-- ARGV[3] how many members are looked at, at the most
--
-- Returns
--   [1] how many there are to be looked at
--   [2] how many bytes were looked at
--   [3] the call's next attempt, if it is among them
--   [4] when it is due, in Unix ms
--   [5] when it was first accepted, in Unix ms; '' = nobody says
--   [6] its deadline; '' = none
--   [7] its level; '' = normal
local page = waiting(KEYS[1], KEYS[2], ARGV[2], ARGV[3])
local bytes = 0
for i = 1, #page, 2 do
  bytes = bytes + #page[i]
  -- What is no call of a host is passed over here; it becomes a dead letter when it is due.
  local read, fields = pcall(cmsgpack.unpack, page[i])
  if read and type(fields) == 'table' and field(fields, 'id') == ARGV[1] and field(fields, 'event') == '' then
    local told = { #page / 2, bytes, field(fields, 'attempt'), page[i + 1] }
    for _, name in ipairs({ 'accepted', 'deadline', 'priority' }) do told[#told + 1] = field(fields, name) end
    return told
  end
end
return { #page / 2, bytes }
