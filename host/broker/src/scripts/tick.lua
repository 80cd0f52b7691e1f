#!lua
-- Makes the call of one tick of a schedule, unless some host has made it. Refused when memory is full, as any new call is.
--
-- KEYS[1] the function's stream of calls of the level that the schedule's calls have
-- KEYS[2] its ticks: by the name of a schedule, up to when all of its ticks were dealt with
-- ARGV[1] the schedule's name
-- ARGV[2] the tick in Unix ms; 0 = none: it is only asked what was done
-- ARGV[3] how late the tick may be made, in ms; -1 = however late
-- ARGV[4…] the fields of the tick's call, in pairs
--
-- Returns
--   [1] 1 = the call was made; 0 = it had been, the tick has not come yet, or it is too late
--   [2] up to when all ticks were dealt with, in Unix ms; of a schedule that is new here: up to now
--   [3] the time now, in Unix ms of Redis's clock
local calls, ticks, name, tick, late = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local done = tonumber(redis.call('HGET', ticks, name) or nil)
local made = 0
if not done then
  done = now
  redis.call('HSET', ticks, name, string.format('%.0f', done))
elseif tick > done and tick <= now and (late < 0 or now - tick <= late) then
  local fields = {}
  for i = 4, #ARGV do fields[#fields + 1] = ARGV[i] end
  redis.call('XADD', calls, '*', unpack(fields))
  made, done = 1, tick
  redis.call('HSET', ticks, name, string.format('%.0f', done))
end
return { made, done, now }
