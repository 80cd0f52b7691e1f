-- Takes a call back that stands in a part of the delayed set; begins with cancel.lua.
local ended = standing()
if ended then return { 'ended', ended } end
local page = redis.call('ZRANGE', delayed, ARGV[10], ARGV[10] + ARGV[12] - 1)
local bytes = 0
for _, call in ipairs(page) do
  bytes = bytes + #call
  local read, fields = pcall(cmsgpack.unpack, call)
  if read and type(fields) == 'table' and field(fields, 'id') == id then
    redis.call('ZREM', delayed, call)
    local attempts = (tonumber(field(fields, 'attempt')) or 1) - 1
    return finish(fields, attempts, tonumber(field(fields, 'accepted')) or 0)
  end
end
if #page < tonumber(ARGV[12]) then return { 'none' } end
return { 'next', ARGV[10] + #page, bytes }
