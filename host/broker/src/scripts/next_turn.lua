-- Who comes next of the calls with one key. It is the start of other scripts, and no script by itself.
--
-- `turns` is a hash: key → the id of the call whose turn it is. `line` is a sorted set of those that wait, all with the
-- score 0: the key, a zero byte, the entry that brought the call as 41 characters that sort as entries do, a zero byte, and
-- the call as it stands in `delayed` too, where it is found like every call that waits.

-- The turn of `id` is over: it goes to the first that waits, which stands in the stream from now on. One that was taken back
-- meanwhile is passed by. `calls` is any of the function's call streams; each call goes to that of its level.
local function next_turn(turns, line, calls, delayed, key, id)
  local holder = redis.call('HGET', turns, key)
  if holder and holder ~= id then return end
  while true do
    local first = redis.call('ZRANGEBYLEX', line, '[' .. key .. '\0', '(' .. key .. '\1', 'LIMIT', 0, 1)[1]
    if not first then
      redis.call('HDEL', turns, key)
      return
    end
    redis.call('ZREM', line, first)
    local call = string.sub(first, #key + 44)
    if redis.call('ZREM', delayed, call) == 1 then
      local fields = cmsgpack.unpack(call)
      local tag, stands = string.match(calls, '^(.-}:)'), string.match(calls, '}:calls:(%l+)$')
      local stream, level, waits = stands and string.sub(calls, 1, -#stands - 2) or calls, '', nil
      for i = 1, #fields, 2 do
        local name, value = fields[i], fields[i + 1]
        if name == 'id' then waits = value end
        if name == 'priority' and (value == 'high' or value == 'low') then
          local kind = redis.call('TYPE', stream .. ':' .. value).ok
          if kind == 'stream' or kind == 'none' then
            level = value
          else
            -- As promote.lua does it.
            fields[i + 1] = 'normal'
          end
        end
      end
      local entry = redis.call('XADD', level == '' and stream or stream .. ':' .. level, '*', unpack(fields))
      if waits then
        redis.call('HSET', turns, key, waits)
        redis.call('SET', tag .. 'id:' .. waits, level == '' and entry or entry .. '-' .. level, 'PX', 604800000)
      end
      return
    end
  end
end
