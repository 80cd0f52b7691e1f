#!lua flags=allow-oom
-- Keeps leases of one call stream: sets back the idle time of the entries that this host still holds.
--
-- KEYS[1]  the function's stream of calls of one level
-- KEYS[2]  the claims hash of that stream
-- ARGV[1]  consumer group
-- ARGV[2]  this host's consumer name
-- ARGV[3…] two for each lease: entry id, claims that the lease was given at
--
-- Returns one number for each lease, in order: 1 kept, 0 lost (the entry is another's, or gone; nothing was changed).
local calls, claims = KEYS[1], KEYS[2]
local group, me = ARGV[1], ARGV[2]
local answer = {}
for i = 3, #ARGV, 2 do
  local entry, lease = ARGV[i], ARGV[i + 1]
  local pending = redis.pcall('XPENDING', calls, group, entry, entry, 1, me)
  local kept = not pending.err and #pending == 1 and (redis.call('HGET', claims, entry) or '0') == lease
  -- JUSTID leaves the delivery counter alone. The check above is in the same atomic step, so nothing is taken back.
  if kept then redis.call('XCLAIM', calls, group, me, 0, entry, 'JUSTID') end
  answer[#answer + 1] = kept and 1 or 0
end
return answer
