-- What scripts do with executions. It is the start of other scripts, and no script by itself.
--
-- `state` is a hash: what is known of an execution beside its log.
--   state     running, stuck, completed, failed or cancelled
--   run       how often it was begun anew, and one
--   length    how many entries the log has
--   chain     the chain of the last of them
--   bytes     how many bytes they have, names and values
--   steps     how many steps the function has asked for
--   wake      1 = a wake of it stands in the stream or among the delayed calls, or a host has it; 0 = none does
--   began, ended  in Unix ms
--   c:<run>:<step>  a call of this step has not ended
--   t:<run>:<step>  a timer of this step has not fired
--   e:<id>    an event with this id came; its position
--   parent    whose step it is, if it is one: step, run, function and id of that execution
--   digest    the component that it runs on
--   move      the component that it is to be moved to, or 'newest'; whoever runs it next tries that
--   refused   a component that it could not be moved to, and why
--   stuck     why it cannot go on, if it is stuck
-- and others that hosts write at its start.
-- `log` is a stream whose entries are numbered 1-0, 2-0 and so on.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whether the log has what its execution says. It is written to by these scripts alone. `said` is the length that it says, if that was read.
local function is_whole(state, log, said)
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  local length = tonumber(said or redis.call('HGET', state, 'length'))
  return redis.call('XLEN', log) == length and (length == 0 or last[1] == string.format('%.0f-0', length))
end

-- Appends one fact: names and values in turn. Each entry is chained to the one before it.
local function append(state, log, fields)
  local known = redis.call('HMGET', state, 'length', 'chain', 'bytes')
  local length, bytes = tonumber(known[1]) + 1, tonumber(known[3]) or 0
  fields[#fields + 1] = 'at'
  fields[#fields + 1] = string.format('%.0f', now_ms())
  local parts = { known[2] }
  for _, text in ipairs(fields) do
    parts[#parts + 1] = #text .. ':' .. text
    bytes = bytes + #text
  end
  local chain = redis.sha1hex(table.concat(parts))
  fields[#fields + 1] = 'chain'
  fields[#fields + 1] = chain
  redis.call('XADD', log, string.format('%.0f-0', length), unpack(fields))
  redis.call('HSET', state, 'length', length, 'chain', chain, 'bytes', string.format('%.0f', bytes))
end

-- Sees to it that a host runs it: there is one entry for it, and no second.
local function wake(calls, state, id)
  if redis.call('HGET', state, 'wake') == '1' then return end
  redis.call('XADD', calls, '*', 'payload', '', 'id', id, 'execution', '1')
  redis.call('HSET', state, 'wake', '1')
end

-- How a timer stands in the delayed set.
local function timer(id, run, step)
  return cmsgpack.pack({ 'execution', id, 'run', run, 'step', step })
end

-- Whether it has begun and not ended.
local function is_open(state)
  local is = redis.call('HGET', state, 'state')
  return is == 'running' or is == 'stuck'
end

-- The stream in which wakes stand, by any call stream of the function.
local function normal(calls)
  return string.match(calls, '^(.-}:)') .. 'calls'
end

-- Makes an execution of which there is nothing yet, with the fact `started`, and has it run.
local function begin(calls, state, log, all, mark, id, known, started)
  local now = string.format('%.0f', now_ms())
  redis.call('HSET', state, 'state', 'running', 'run', '1', 'length', '0', 'chain', '', 'steps', '0', 'wake', '0', 'began', now,
    unpack(known))
  redis.call('ZADD', all, now, id)
  redis.call('SET', mark, 'execution')
  append(state, log, started)
  wake(calls, state, id)
end

-- A call of a step has ended, or its timer has fired: `mark` is what stands in the state for it. Nothing is done twice.
local function answer(calls, state, log, id, mark, fields)
  if not is_open(state) or redis.call('HDEL', state, mark) == 0 then return false end
  -- A log that is not what it should be is left as it is: whoever runs it says so.
  if is_whole(state, log) then append(state, log, fields) end
  wake(calls, state, id)
  return true
end

-- What was asked for and not answered is of no use any more.
local function forget(state)
  local known = redis.call('HKEYS', state)
  for _, field in ipairs(known) do
    if string.match(field, '^[ct]:') then redis.call('HDEL', state, field) end
  end
end

-- How the keys of the function's components start, by the key of one of its executions.
local function components(state, id)
  return string.sub(state, 1, #state - #id - #'exec:') .. 'component:'
end

-- It runs on another component no more, which goes when nobody has needed it for so long.
local function unpin(state, id, kept)
  local digest = redis.call('HGET', state, 'digest')
  if not digest then return end
  local start = components(state, id)
  redis.call('HDEL', state, 'digest')
  if redis.call('HINCRBY', string.sub(start, 1, -2) .. 's', digest, -1) <= 0 then
    redis.call('HDEL', string.sub(start, 1, -2) .. 's', digest)
    redis.call('PEXPIRE', start .. digest, kept)
  end
end

-- It runs on this component, which is kept for as long as it does.
local function pin(state, id, digest, kept)
  local start = components(state, id)
  unpin(state, id, kept)
  redis.call('HSET', state, 'digest', digest)
  redis.call('HINCRBY', string.sub(start, 1, -2) .. 's', digest, 1)
  redis.call('PERSIST', start .. digest)
end

-- If it is a step of another execution, that learns of its end.
local function tell_parent(state, document)
  local said = redis.call('HGET', state, 'parent')
  if not said then return end
  local step, run, parent, id = string.match(said, '^(%d+) (%d+) (%S+) (%S+)$')
  local tag = string.match(state, '^(.-){') .. '{' .. parent .. '}:'
  answer(tag .. 'calls', tag .. 'exec:' .. id, tag .. 'log:' .. id, id, 'c:' .. run .. ':' .. step,
    { 'event', 'call-completed', 'step', step, 'result', document })
end

-- It has its end: the result is there for whoever asks, and what is known of it is kept for so long.
local function finish(state, log, all, result, mark, id, word, document, result_ttl, kept)
  forget(state)
  unpin(state, id, kept)
  redis.call('HSET', state, 'state', word, 'wake', '0', 'ended', string.format('%.0f', now_ms()))
  redis.call('SET', result, document, 'PX', result_ttl)
  redis.call('DEL', mark)
  tell_parent(state, document)
  redis.call('PEXPIRE', state, kept)
  redis.call('PEXPIRE', log, kept)
  -- Those whose time is over go from the list, a few at a time, wherever in it they stand.
  local first = now_ms() % math.max(1, redis.call('ZCARD', all))
  for _, other in ipairs(redis.call('ZRANGE', all, first, first + 2)) do
    local key = string.sub(state, 1, #state - #id) .. other
    if redis.call('EXISTS', key) == 0 then redis.call('ZREM', all, other) end
  end
end
