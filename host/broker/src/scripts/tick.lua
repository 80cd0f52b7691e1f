#!lua
-- Makes the call of one tick of a schedule, unless some host has made it. Refused when memory is full, as any new call is.
--
-- KEYS[1] the function's stream of calls of the level that the schedule's calls have
-- KEYS[2] its ticks: by the name of a schedule, up to when all of its ticks were dealt with, a space, and its timetable
-- KEYS[3] the mark of the call's id (accept.lua)
-- ARGV[1] the schedule's name
-- ARGV[2] the tick in Unix ms; 0 = none: it is only asked what was done
-- ARGV[3] how late the tick may be made, in ms; -1 = however late
-- ARGV[4] its timetable as text: its expression and its zone
-- ARGV[5] how late a tick may be made of a timetable that is new, in ms: of what it has not seen it has missed nothing
-- ARGV[6] how far ahead of the time now the ticks may be that were dealt with, in ms; what is further was done by a clock
--         that was wrong, and is forgotten
-- ARGV[7…] the fields of the tick's call, in pairs
--
-- Returns
--   [1] 1 = the call was made; 0 = it had been, the tick has not come yet, or it is too late
--   [2] up to when all ticks were dealt with, in Unix ms; of a schedule that is new here: up to now
--   [3] the time now, in Unix ms of Redis's clock
local calls, ticks, name, tick, late = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local standing = redis.call('HGET', ticks, name) or ''
local had, timetable = string.match(standing, '^(%d+) ?(.*)$')
local done = tonumber(had) or now
if done > now + ARGV[6] then done = now end
-- One whose timetable nobody has written down is taken to be the same.
if had and timetable ~= '' and timetable ~= ARGV[4] then
  done = math.max(done, now - ARGV[5])
end
local made = 0
if had and tick > done and tick <= now and (late < 0 or now - tick <= late) then
  local fields = {}
  for i = 7, #ARGV do fields[#fields + 1] = ARGV[i] end
  local entry = redis.call('XADD', calls, '*', unpack(fields))
  local level = string.match(calls, '}:calls:(%l+)$')
  redis.call('SET', KEYS[3], level and entry .. '-' .. level or entry, 'PX', 604800000)
  made, done = 1, tick
end
local text = string.format('%.0f', done) .. ' ' .. ARGV[4]
if text ~= standing then redis.call('HSET', ticks, name, text) end
return { made, done, now }
