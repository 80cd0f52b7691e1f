-- Takes a call back that stands in a part of the call stream; begins with cancel.lua.
local ended = standing()
if ended then return { 'ended', ended } end
-- Behind what Redis calls an entry of another than the normal stream stands its level.
local level = string.match(calls, '}:calls:(%l+)$')
level = level and '-' .. level or ''
local page = redis.pcall('XRANGE', calls, ARGV[10], ARGV[11], 'COUNT', ARGV[12])
-- What is no stream has no call.
if page.err then return { 'none' } end
local bytes = 0
for _, entry in ipairs(page) do
  local name, fields = entry[1], entry[2]
  bytes = bytes + weight(fields)
  local own = field(fields, 'id')
  -- Wakes and events are no calls; an execution is taken back by itself.
  if field(fields, 'execution') == '' and (own == id or own == '' and name .. level == id) then
    local step = step_of(fields)
    if step then return step end
    local attempts = (tonumber(field(fields, 'attempt')) or 1) - 1
    local rows = redis.pcall('XPENDING', calls, group, name, name, 1)
    local holder = not rows.err and rows[1] and rows[1][2]
    if holder then
      if holder ~= ARGV[9] then
        redis.call('PUBLISH', ARGV[7] .. holder, '{"cancel":["' .. ARGV[8] .. '","' .. name .. level .. '"]}')
        return { 'held', holder, name .. level }
      end
      attempts = attempts + 1 + (tonumber(redis.call('HGET', claims, name) or 0))
      redis.call('XACK', calls, group, name)
      redis.call('HDEL', claims, name)
    end
    redis.call('XDEL', calls, name)
    return finish(fields, attempts, tonumber(field(fields, 'accepted')) or tonumber(string.match(name, '^%d+')))
  end
end
if #page < tonumber(ARGV[12]) then return { 'none' } end
return { 'next', '(' .. page[#page][1], bytes }
