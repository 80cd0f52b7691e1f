-- Whether the mark of an id stands for a call. It stands before other scripts, behind fields.lua and waiting.lua, and is no
-- script by itself: no KEYS, no ARGV.

-- `mark` is the key under which it is said where a call stands that has not ended (accept.lua). The call may have been deleted
-- there by hand. Then it will never end, and the mark is none.
local function is_under_way(mark)
  local said = redis.pcall('GET', mark)
  if type(said) ~= 'string' then return false end
  local tag, id = string.match(mark, '^(.-}:)id:(.+)$')
  local entry, level = string.match(said, '^(%d+%-%d+)%-?(%l*)$')
  if entry then
    local found = redis.pcall('XRANGE', tag .. 'calls' .. (level == '' and '' or ':' .. level), entry, entry)
    return not found.err and #found > 0
  end
  if said == 'execution' then return redis.call('EXISTS', tag .. 'exec:' .. id) == 1 end
  local function is_it(call)
    local read, fields = pcall(cmsgpack.unpack, call)
    return read and type(fields) == 'table' and field(fields, 'id') == id
  end
  local place, key = string.match(said, '^turn (%S+) (.+)$')
  if place then
    local read, page = pcall(waiting, tag .. 'delayed', tag .. 'line', '[' .. key .. '\0' .. place .. '\0', 8)
    for i = 1, read and #page or 0, 2 do
      if is_it(page[i]) then return true end
    end
    return false
  end
  local due = string.match(said, '^delayed (%d+)$')
  -- What a later host writes there is believed.
  if not due then return true end
  local bytes = 0
  for from = 0, 999, 8 do
    local page = redis.pcall('ZRANGE', tag .. 'delayed', due, due, 'BYSCORE', 'LIMIT', from, 8)
    if page.err then return false end
    for _, call in ipairs(page) do
      if is_it(call) then return true end
      bytes = bytes + #call
    end
    if #page < 8 then return false end
    if bytes > 8388608 then return true end
  end
  return true
end
