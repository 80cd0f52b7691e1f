#!lua flags=allow-oom
-- Moves calls whose wait is over from the delayed set to the call streams of one function, each to that of its level, and tells
-- executions of timers that are due and has those run that were put back. For these it stands behind execution.lua.
--
-- KEYS[1] the function's call stream; those of the other levels are named after it
-- KEYS[2] its delayed set
-- KEYS[3] its timers
-- KEYS[4] its dead letters: whatever in these sets is no call goes there
-- ARGV[1] how many calls may be moved at the most
-- ARGV[2] after how many bytes of them no further one is moved: Redis does nothing else meanwhile
--
-- Returns
--   [1] how many were moved
--   [2] ms until the next one is due; 0 = it is already; -1 = none waits
local calls, delayed, timers = KEYS[1], KEYS[2], KEYS[3]
local most, bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local tag = string.match(calls, '^(.-}:)')

-- Names and values in turn, each of which XADD takes, and no more than Lua hands over.
local function is_call(fields)
  if type(fields) ~= 'table' or #fields == 0 or #fields % 2 ~= 0 or #fields > 4000 then return false end
  for _, text in ipairs(fields) do
    if type(text) ~= 'string' and type(text) ~= 'number' then return false end
  end
  return true
end

-- A timer of an execution: its keys are named after the function's call stream.
local function fire(fields)
  local id, run, step = fields[2], fields[4], fields[6]
  answer(calls, tag .. 'exec:' .. id, tag .. 'log:' .. id, id, 't:' .. run .. ':' .. step, { 'event', 'timer-fired', 'step', step })
end

local function move(set, call)
  local read, fields = pcall(cmsgpack.unpack, call)
  if read and is_call(fields) and fields[1] == 'execution' and #fields == 6 then
    -- What somebody put in the place of an execution by hand holds up no other call.
    pcall(fire, fields)
  elseif read and is_call(fields) then
    local stream, level, id, wakes, tells = calls, '', nil, false, false
    for i = 1, #fields, 2 do
      local name, value = fields[i], fields[i + 1]
      if name == 'id' then id = value end
      if name == 'execution' then wakes = true end
      if name == 'event' then tells = true end
      if name == 'priority' and (value == 'high' or value == 'low') then
        local kind = redis.call('TYPE', calls .. ':' .. value).ok
        if kind == 'stream' or kind == 'none' then
          stream, level = calls .. ':' .. value, '-' .. value
        else
          -- What stands there by hand is no stream. It is a normal call from now on.
          fields[i + 1] = 'normal'
        end
      end
    end
    local entry = redis.call('XADD', stream, '*', unpack(fields))
    -- The mark by which it is found goes with it; that of an execution is its own, wherever its wake stands, and events have none.
    if id and not wakes then
      redis.call('SET', tag .. 'id:' .. id, entry .. level, 'PX', 604800000)
    elseif id and not tells and redis.pcall('HEXISTS', tag .. 'exec:' .. id, 'state') == 1 then
      redis.call('HSET', tag .. 'exec:' .. id, 'wake', entry)
    end
  else
    redis.call('XADD', KEYS[4], '*', 'payload', call, 'reason', 'malformed', 'error',
      'what stood among the delayed calls or the timers is no call of a host', 'attempts', '0', 'digest', '', 'died_ms', string.format('%.0f', now))
  end
  redis.call('ZREM', set, call)
end

-- Moves what is due in a set until so many of both were moved.
local moved = 0
local function drain(set, upto)
  local more = moved < upto and bytes > 0
  while more do
    local due = redis.call('ZRANGE', set, '-inf', now, 'BYSCORE', 'LIMIT', 0, math.min(10, upto - moved))
    more = #due > 0
    for _, call in ipairs(due) do
      if more then
        move(set, call)
        moved, bytes = moved + 1, bytes - #call
        more = moved < upto and bytes > 0
      end
    end
  end
end
-- Neither holds up the other.
drain(timers, math.ceil(most / 2))
drain(delayed, most)
drain(timers, most)
local wait = -1
for _, set in ipairs({ delayed, timers }) do
  local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  if #first > 0 then
    local left = math.max(0, tonumber(first[2]) - now)
    wait = wait < 0 and left or math.min(wait, left)
  end
end
return { moved, wait }
