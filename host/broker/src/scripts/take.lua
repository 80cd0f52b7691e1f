#!lua flags=allow-oom
-- Reads new entries of one function, the urgent first, for a consumer. A read by XREADGROUP counts by stream and cannot say
-- that of so many entries in all those of one stream come first.
--
-- KEYS    the function's streams that have a consumer group, the highest level first
-- ARGV[1] consumer group
-- ARGV[2] the consumer
-- ARGV[3] how many entries are read, at the most
-- ARGV[4…] on how many of them each stream has the first claim, in the order of the keys; what it does not use goes to the
--         others, the highest first
--
-- Returns what XREADGROUP returns: of each stream that had any, its key and its new entries; an empty list if none had. Behind
-- them, of each stream that could not be read, its key and the reason as text.
-- An error only if nothing was read: what was read is this consumer's.
local left, failed = tonumber(ARGV[3]), nil
local read, is_empty, faults = {}, {}, {}

local function take(stream, count)
  count = math.min(count, left)
  if count <= 0 or is_empty[stream] then return end
  local answer = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', count, 'STREAMS', KEYS[stream], '>')
  if answer and answer.err then
    failed, is_empty[stream] = answer, true
    faults[#faults + 1] = { KEYS[stream], answer.err }
    return
  end
  local entries = answer and answer[1][2] or {}
  is_empty[stream] = #entries < count
  left = left - #entries
  read[stream] = read[stream] or {}
  for _, entry in ipairs(entries) do table.insert(read[stream], entry) end
end

for stream = 1, #KEYS do take(stream, tonumber(ARGV[3 + stream])) end
for stream = 1, #KEYS do take(stream, left) end
local answer = {}
for stream = 1, #KEYS do
  if read[stream] and #read[stream] > 0 then answer[#answer + 1] = { KEYS[stream], read[stream] } end
end
if #answer == 0 and failed then return failed end
for _, fault in ipairs(faults) do answer[#answer + 1] = fault end
return answer
