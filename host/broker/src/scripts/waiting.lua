-- Reads calls that wait outside of the streams. It stands before other scripts, and is no script by itself: no KEYS, no ARGV.

-- Gives calls of the delayed set, at most `count`, each with the time when it is due behind it: from a rank on, or those whose
-- members of the line begin as `from` says behind a '[': with a key, a zero byte, a place in the line and a zero byte.
local function waiting(delayed, line, from, count)
  if string.sub(from, 1, 1) ~= '[' then
    return redis.call('ZRANGE', delayed, from, from + count - 1, 'WITHSCORES')
  end
  local found = {}
  local range = { from, '(' .. string.sub(from, 2, -2) .. '\1' }
  for _, member in ipairs(redis.call('ZRANGEBYLEX', line, range[1], range[2], 'LIMIT', 0, count)) do
    local call = string.sub(member, #from)
    local due = redis.call('ZSCORE', delayed, call)
    if due then
      found[#found + 1] = call
      found[#found + 1] = due
    end
  end
  return found
end
