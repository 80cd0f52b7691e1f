-- How the inspecting scripts describe an entry. It stands before each of them, behind fields.lua, and is no script by itself: no
-- KEYS, no ARGV.
--
-- describe returns
--   [1] entry id
--   [2] the call's own id; '' = it has none
--   [3] the attempt that the entry was written for; '' = the first
--   [4] when the call was first accepted, Unix ms; '' = when the entry was added
--   [5] how often the entry was claimed from a host that was lost
--   [6] the host that holds it; '' = none
--   [7] since when it does, or last renewed its lease, in Unix ms of Redis's clock; 0 if none holds it
--   [8] the call's deadline; '' = none
-- The clock is read after the pending list was, so that no call is held since before it was accepted.
local function since(row)
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000) - row[3]
end

-- `row` is the entry's row of the pending list, if it has one.
local function describe(claims, entry, row)
  local fields = entry[2]
  return {
    entry[1], field(fields, 'id'), field(fields, 'attempt'), field(fields, 'accepted'),
    redis.call('HGET', claims, entry[1]) or '0', row and row[2] or '', row and since(row) or 0, field(fields, 'deadline'),
  }
end

local function row_of(calls, group, entry)
  local rows = redis.pcall('XPENDING', calls, group, entry, entry, 1)
  return not rows.err and rows[1] or nil
end
