#!lua flags=allow-oom
-- Ends calls of one call stream: the result first, then the acknowledgement, then the notices.
--
-- Allowed when memory is full: settling frees more than it takes, and a full Redis must still drain.
--
-- KEYS[1]  the function's stream of calls of one level
-- KEYS[2]  the claims hash of that stream
-- KEYS[3…] the result key of each settlement, in order
-- ARGV[1]  consumer group
-- ARGV[2]  this host's consumer name
-- ARGV[3]  how long a result is kept, in ms
-- ARGV[4]  the smallest entry id of the batch
-- ARGV[5]  the largest entry id of the batch
-- ARGV[6…] four for each settlement: entry id, claims that the lease was given at, result document, reply channel ('' = none)
--
-- Returns one number for each settlement, in order:
--   1  settled: the document is the call's result
--   2  settled: the call had a result already (the same id was sent twice); that one stands and was notified
--   0  lost: this host does not hold the lease any more; nothing was changed
local calls, claims = KEYS[1], KEYS[2]
local group, me, ttl = ARGV[1], ARGV[2], ARGV[3]
local count = #KEYS - 2
local answer = {}

-- The mark of an id that its caller chose, or of a call that was put back, goes when the call ends: its result says from
-- then on that it was there.
local function unmark(result)
  local tag, id = string.match(result, '^(.-}:)result:(.+)$')
  if id then redis.call('DEL', tag .. 'id:' .. id) end
end

-- One look at what this host owns between the batch's ends. Twice the batch's size, because other entries may lie
-- between them; what is missed is looked up by itself below.
local pending = redis.pcall('XPENDING', calls, group, ARGV[4], ARGV[5], 2 * count, me)
if pending.err then
  for i = 1, count do answer[i] = 0 end
  return answer
end
local owned = {}
for i = 1, #pending do owned[pending[i][1]] = true end
local claimed = redis.call('EXISTS', claims) == 1

local done, notices, order = {}, {}, {}
for i = 1, count do
  local at = 2 + 4 * i
  local entry, lease, document, reply = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local mine = owned[entry] or #redis.call('XPENDING', calls, group, entry, entry, 1, me) == 1
  if mine then
    local now = claimed and redis.call('HGET', claims, entry) or '0'
    mine = now == lease
  end
  if not mine then
    answer[i] = 0
  else
    local result = KEYS[2 + i]
    -- Of an event (`result:<execution> <id>`) the last answer stands: what found no execution may find it when it is sent again,
    -- and what is in the log stays at its place.
    local is_event = string.match(result, '}:result:%S+ ')
    if is_event then
      redis.call('SET', result, document, 'PX', ttl)
      answer[i] = 1
    elseif redis.call('SET', result, document, 'NX', 'PX', ttl) then
      answer[i] = 1
    else
      local standing = redis.pcall('GET', result)
      if type(standing) == 'string' then
        answer[i] = 2
        document = standing
      else
        -- Something that is no result stands under the key. It must not keep the call, nor its neighbours, from ending.
        redis.call('SET', result, document, 'PX', ttl)
        answer[i] = 1
      end
    end
    unmark(result)
    done[#done + 1] = entry
    if reply ~= '' then
      local for_reply = notices[reply]
      if not for_reply then
        for_reply = {}
        notices[reply] = for_reply
        order[#order + 1] = reply
      end
      for_reply[#for_reply + 1] = document
    end
  end
end

if #done > 0 then
  redis.call('XACK', calls, group, unpack(done))
  redis.call('XDEL', calls, unpack(done))
  if claimed then redis.call('HDEL', claims, unpack(done)) end
  for i = 1, #order do
    redis.call('PUBLISH', order[i], table.concat(notices[order[i]]))
  end
end
return answer
