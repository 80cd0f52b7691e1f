#!lua flags=allow-oom
-- Takes a host out of those that are online, and keeps its record for people to read.
--
-- KEYS[1] the ids of the hosts that are online
-- KEYS[2] the ids of the hosts that are gone, by when they were last seen
-- KEYS[3] the host's record
-- ARGV[1] its id
-- ARGV[2] the record from now on, as JSON; empty if nobody knows what it was
-- ARGV[3] when it was last seen, in Unix ms
-- ARGV[4] how long the record is kept, in ms
-- ARGV[5] how many gone hosts are kept at the most
-- ARGV[6] ms without a sign of life after which it may be taken out; a host that gave one since then stays. -1: any
-- ARGV[7] the most that a record can live, in ms: what a sign of life sets its time to
--
-- Returns 1 if the host was online and is gone by this, 0 if somebody was quicker or it is alive after all.
local online, offline, record = KEYS[1], KEYS[2], KEYS[3]
local id, json, seen, keep, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local silent = tonumber(ARGV[6])
if silent >= 0 then
  local left = redis.call('PTTL', record)
  if left >= 0 and tonumber(ARGV[7]) - left < silent then return 0 end
end
if redis.call('SREM', online, id) == 0 then return 0 end
if json == '' then
  redis.call('DEL', record)
  return 1
end
redis.call('SET', record, json, 'PX', keep)
redis.call('ZADD', offline, seen, id)
redis.call('ZREMRANGEBYSCORE', offline, '-inf', seen - keep)
redis.call('ZREMRANGEBYRANK', offline, 0, -most - 1)
return 1
