-- Takes a call back that stands in a part of the delayed set; begins with cancel.lua and waiting.lua.
local ended = standing()
if ended then return { 'ended', ended } end
local page = waiting(delayed, KEYS[7], ARGV[10], ARGV[12])
local bytes = 0
for i = 1, #page, 2 do
  local call = page[i]
  bytes = bytes + #call
  local read, fields = pcall(cmsgpack.unpack, call)
  if read and type(fields) == 'table' and field(fields, 'id') == id and field(fields, 'execution') == '' then
    local step = step_of(fields)
    if step then return step end
    redis.call('ZREM', delayed, call)
    local attempts = (tonumber(field(fields, 'attempt')) or 1) - 1
    return finish(fields, attempts, tonumber(field(fields, 'accepted')) or 0)
  end
end
-- Of one place in the line there are no more than levels.
if #page / 2 < tonumber(ARGV[12]) then return { 'none' } end
return { 'next', ARGV[10] + #page / 2, bytes }
