#!lua flags=no-writes,allow-stale
-- Looks at how much work one function has, of all levels. Changes nothing.
--
-- KEYS[1] the function's call stream; those of the other levels are named after it
-- KEYS[2] its delayed set
-- KEYS[3] its dead letters
-- ARGV[1] consumer group
--
-- Returns
--   [1] entries in its streams
--   [2] how many of them a host holds
--   [3] calls that wait for their time
--   [4] dead letters
--   [5] for how many ms the first entry has stood there that no host has read; -1 = there is none
local count, pending, oldest = 0, 0, -1

local function look(calls)
  local all, held, last = redis.call('XLEN', calls), 0, '0-0'
  -- A stream without a group: no host has had this function yet.
  local groups = redis.pcall('XINFO', 'GROUPS', calls)
  if groups.err then groups = {} end
  for _, group in ipairs(groups) do
    local facts = {}
    for i = 1, #group, 2 do facts[group[i]] = group[i + 1] end
    if facts.name == ARGV[1] then held, last = facts.pending, facts['last-delivered-id'] end
  end
  if all > held then
    -- Its payload stays here: only its id is looked at.
    local first = redis.call('XRANGE', calls, '(' .. last, '+', 'COUNT', 1)[1]
    if first then
      local time = redis.call('TIME')
      local now = time[1] * 1000 + math.floor(time[2] / 1000)
      oldest = math.max(oldest, 0, now - tonumber(string.match(first[1], '^%d+')))
    end
  end
  count, pending = count + all, pending + held
end

look(KEYS[1])
for _, level in ipairs({ ':high', ':low' }) do
  if redis.call('TYPE', KEYS[1] .. level).ok == 'stream' then look(KEYS[1] .. level) end
end
return { count, pending, redis.call('ZCARD', KEYS[2]), redis.call('XLEN', KEYS[3]), oldest }
