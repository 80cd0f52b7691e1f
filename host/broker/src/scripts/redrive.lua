-- Sends dead letters of one function again: each call stands in its stream once more, under its own id and with what is
-- known of its attempts, and the result `dead` that it had is gone. All of that or nothing, for each letter. Begins with
-- mark.lua.
--
-- KEYS[1]  the function's call stream; those of the other levels are named after it
-- KEYS[2]  its dead letters, beside which the hash `letters` says which is the latest of a call
-- KEYS[3…] the result key of each letter's call, in order
-- ARGV[…]  two for each letter: its entry id, the call's id
--
-- Returns one number for each letter, in order:
--   1  sent again
--   0  not: there is no such letter any more, or it is another call's
--   2  not: the call has ended in another way since; that result stands
--   3  not: the letter does not hold the whole call
--   4  not: the call is under way again, so that there is one execution of an id and no more
local calls, dead = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- What hosts write anew.
local ours = { id = true, attempt = true, accepted = true, spent = true, history = true }

-- Whether an id is one that Redis gave: that of an entry, with the level of its stream behind it unless that is normal.
local function is_given(id)
  return string.find(id, '^%d+%-%d+$') or string.find(id, '^%d+%-%d+%-high$') or string.find(id, '^%d+%-%d+%-low$')
end

local function redrive(letter, call, result)
  local found = redis.call('XRANGE', dead, letter, letter)
  if #found == 0 then return 0 end
  local old, told = found[1][2], {}
  -- What is told of the end stands last, whatever the call had.
  local at = #old - 1
  while at > 0 and old[at] ~= 'reason' do
    told[old[at]] = old[at + 1]
    at = at - 2
  end
  if at < 1 or told.cut_bytes then return 3 end
  local fields, had, stream, level = {}, {}, calls, ''
  for i = 1, at - 2, 2 do
    local name, value = old[i], old[i + 1]
    -- Who sends it again wants an answer, although the one who sent it first does not wait any more.
    local is_past = name == 'deadline' and (tonumber(value) or math.huge) <= now
    if name == 'priority' and (value == 'high' or value == 'low') then
      local kind = redis.call('TYPE', calls .. ':' .. value).ok
      if kind == 'stream' or kind == 'none' then
        level = '-' .. value
        stream = calls .. ':' .. value
      else
        -- As promote.lua does it.
        value = 'normal'
      end
    end
    if ours[name] then
      had[name] = value
    elseif not is_past then
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
  end
  if had.id ~= call then return 0 end
  local tag = string.match(result, '^(.-}:)')
  -- What came of an event stands under a key of its own, and nothing else is known by its id.
  local execution = field(fields, 'execution')
  local is_event = execution ~= '' and field(fields, 'event') ~= ''
  if is_event then result = tag .. 'result:' .. execution .. ' ' .. call end
  -- Something that is no string is no result.
  local standing = redis.pcall('GET', result)
  if type(standing) == 'string' and string.sub(standing, 1, 16) ~= '{"status":"dead"' then return 2 end
  -- Every call that was sent again, put back, or accepted under an id of its caller's choice has a mark until it ends.
  local mark = tag .. 'id:' .. call
  if not is_event and is_under_way(mark) then return 4 end
  local spent = math.min(math.max(tonumber(told.attempts) or 0, 0), 999998)
  local accepted = had.accepted or told.accepted_ms or is_given(call) and string.match(call, '^%d+') or told.died_ms
  local new = { 'id', call, 'attempt', spent + 1, 'spent', spent, 'accepted', accepted or string.format('%.0f', now) }
  local history = told.history or had.history
  if history then
    new[#new + 1] = 'history'
    new[#new + 1] = history
  end
  for _, text in ipairs(new) do fields[#fields + 1] = text end
  local entry = redis.call('XADD', stream, '*', unpack(fields))
  redis.call('DEL', result)
  -- As accept.lua does it; what is for an execution has none.
  if execution == '' then redis.call('SET', mark, entry .. level, 'PX', 604800000) end
  redis.call('XDEL', dead, letter)
  if redis.call('HGET', tag .. 'letters', call) == letter then redis.call('HDEL', tag .. 'letters', call) end
  return 1
end

local answer = {}
for i = 3, #KEYS do
  local at = 2 * (i - 3)
  answer[i - 2] = redrive(ARGV[at + 1], ARGV[at + 2], KEYS[i])
end
return answer
