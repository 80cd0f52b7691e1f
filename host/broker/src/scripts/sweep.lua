#!lua flags=allow-oom
-- Takes over what other hosts left in one call stream: entries whose lease has lapsed, and entries of hosts that are gone.
--
-- KEYS[1]  the function's stream of calls of one level
-- KEYS[2]  the claims hash of that stream
-- KEYS[3]  the function's delayed set
-- KEYS[4]  the timers of its executions
-- ARGV[1]  consumer group
-- ARGV[2]  this host's consumer name
-- ARGV[3]  lease in ms: an entry that nobody renewed for so long has no owner any more
-- ARGV[4]  how many entries may be claimed at the most
-- ARGV[5]  among how many hosts the entries of gone hosts are shared out; each belongs to one of them by its id
-- ARGV[6]  which of them this host is, from 0 on
-- ARGV[7]  how many hosts are gone: none of their connections stands, so no lease of theirs is worth anything
-- ARGV[8]  how many hosts were cut off: their settling connections are closed, so nothing late can come from them
-- ARGV[9…] the ids of the gone ones, then of those that were cut off, then of the hosts that are known to live, each of
--          these with its own lease in ms
--
-- Returns
--   [1] ms until the next foreign lease can lapse; 0 = one has lapsed but was over the limit; -1 = nobody else holds any
--   [2] ms until the first delayed call or timer is due; 0 = it is; -1 = none waits
--   [3] the claimed entries: entry id, its claims from now on, its fields
--   [4] the hosts that hold lapsed entries but were not cut off: nothing was claimed from them
--   [5] how many entries of gone hosts are this host's share and were over the limit
--   [6] how many entries of gone hosts are left to others; both are counted up to about a thousand
--   [7] which streams the function has beside one for normal calls: 1 = for high ones, 2 = for low ones, 3 = both
local calls, claims = KEYS[1], KEYS[2]
local group, me, lease, room = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local shares, share = tonumber(ARGV[5]), tonumber(ARGV[6])

local gone, cut, live = {}, {}, {}
local last_gone = 8 + tonumber(ARGV[7])
local last_cut = last_gone + tonumber(ARGV[8])
for i = 9, last_gone do gone[ARGV[i]] = true end
for i = last_gone + 1, last_cut do cut[ARGV[i]] = true end
for i = last_cut + 1, #ARGV, 2 do live[ARGV[i]] = tonumber(ARGV[i + 1]) end

local next_lapse = -1
local function lapses_in(ms)
  if next_lapse < 0 or ms < next_lapse then next_lapse = ms end
end

local taken, whole, mine_left, others_left = {}, {}, 0, 0

-- Claims one entry that was idle for at least so long.
local function claim(id, idle)
  local got = redis.call('XCLAIM', calls, group, me, idle, id)
  if #got > 0 and got[1] then
    room = room - 1
    taken[#taken + 1] = { id, redis.call('HINCRBY', claims, id, 1), got[1][2] }
  else
    -- Deleted while it was pending: XCLAIM has dropped it from the pending list.
    redis.call('HDEL', claims, id)
  end
end

local function is_mine(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return (tonumber(ms) + tonumber(seq)) % shares == share
end

local function inherit(name)
  for _, row in ipairs(redis.call('XPENDING', calls, group, '-', '+', 1000, name)) do
    if not is_mine(row[1]) then
      others_left = others_left + 1
    elseif room <= 0 then
      mine_left = mine_left + 1
    else
      claim(row[1], 0)
    end
  end
end

local function take_lapsed(name)
  local lease = math.max(lease, live[name] or 0)
  -- What has lapsed: one more than there is room for, to know whether something is left.
  local lapsed = redis.call('XPENDING', calls, group, 'IDLE', lease, '-', '+', room + 1, name)
  if #lapsed > 0 and not cut[name] then
    whole[#whole + 1] = name
    lapsed = {}
  end
  for _, row in ipairs(lapsed) do
    if room <= 0 then lapses_in(0) else claim(row[1], lease) end
  end
  -- When the next one may lapse. The oldest entries come first; whoever holds more is looked at again in any case.
  local rows = redis.call('XPENDING', calls, group, '-', '+', 100, name)
  for _, row in ipairs(rows) do
    if row[3] < lease then lapses_in(lease - row[3]) end
  end
  if #rows == 100 then lapses_in(lease / 2) end
end

local summary = redis.pcall('XPENDING', calls, group)
if not summary.err and summary[4] then
  for _, holder in ipairs(summary[4]) do
    local name = holder[1]
    if gone[name] then inherit(name) elseif name ~= me then take_lapsed(name) end
  end
end

-- A consumer is deleted only if nothing is pending for it: XGROUP DELCONSUMER would destroy that for ever.
local consumers = redis.pcall('XINFO', 'CONSUMERS', calls, group)
if not consumers.err then
  for _, row in ipairs(consumers) do
    local facts = {}
    for i = 1, #row, 2 do facts[row[i]] = row[i + 1] end
    local is_left = gone[facts.name] or not live[facts.name] and facts.idle >= lease
    if facts.name ~= me and is_left and facts.pending == 0 then
      redis.call('XGROUP', 'DELCONSUMER', calls, group, facts.name)
    end
  end
end

local next_due = -1
for i = 3, 4 do
  local first = redis.call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
  if #first > 0 then
    local time = redis.call('TIME')
    local left = math.max(0, tonumber(first[2]) - (time[1] * 1000 + math.floor(time[2] / 1000)))
    next_due = next_due < 0 and left or math.min(next_due, left)
  end
end
-- Something else under such a key is no stream, and nothing was left in it.
local function has(level) return redis.call('TYPE', calls .. level).ok == 'stream' end
local levels = (has(':high') and 1 or 0) + (has(':low') and 2 or 0)
return { math.floor(next_lapse), next_due, taken, whole, mine_left, others_left, levels }
