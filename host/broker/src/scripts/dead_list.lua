#!lua flags=no-writes
-- Describes a part of the dead letters of one function. Payloads stay where they are.
--
-- KEYS[1] the function's dead letters
-- ARGV[1] where to start, as XRANGE has it
-- ARGV[2] where to end
-- ARGV[3] how many letters are described, at the most
-- ARGV[4] 'oldest' or 'newest': which come first; with 'newest' the start is the later end
-- ARGV[5] how many bytes of an error are told
--
-- Returns a description of each letter:
--   [1] its entry id
--   [2] the call's id; '' = it has none
--   [3] reason, [4] the beginning of the error, [5] attempts, [6] digest, [7] died_ms: as they stand there, '' = they do not
--   [8] how large the payload is
--   [9] 1 = the letter holds all of the call, 0 = it does not
local range = ARGV[4] == 'newest' and 'XREVRANGE' or 'XRANGE'
local answer = {}
for _, letter in ipairs(redis.call(range, KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])) do
  local told, fields, call, size = {}, letter[2], '', 0
  -- What is told of the end stands last, whatever the call had.
  local at = #fields - 1
  while at > 0 and fields[at] ~= 'reason' do
    told[fields[at]] = fields[at + 1]
    at = at - 2
  end
  for i = 1, at - 2, 2 do
    if fields[i] == 'id' then call = fields[i + 1] elseif fields[i] == 'payload' then size = #fields[i + 1] end
  end
  answer[#answer + 1] = {
    letter[1], call, at > 0 and fields[at + 1] or '', string.sub(told.error or '', 1, ARGV[5]), told.attempts or '',
    told.digest or '', told.died_ms or '', size, at > 0 and not told.cut_bytes and 1 or 0,
  }
end
return answer
