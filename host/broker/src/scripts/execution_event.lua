-- Takes an event for an execution; stands behind execution.lua. Refused when memory is full.
--
-- KEYS[1] the function's call stream
-- KEYS[2] the execution's state
-- KEYS[3] its log
-- ARGV[1] its id
-- ARGV[2] the event's id
-- ARGV[3] how many entries a log may have
-- ARGV[4] how many bytes
-- ARGV[5…] the fact `event-received`: names and values
--
-- Returns
--   { position, 1 }  it stands in the log
--   { position, 0 }  one of this id came before, and stands there
--    0  there is no such execution
--   -1  it has ended
--   -2  its log is as long as it may be
--   -3  its log is not what it should be; nothing was changed
local book = open(KEYS[2], KEYS[3], 'e:' .. ARGV[2])
local before = book.more
if before then return { tonumber(string.match(before, '^%d+')), 0 } end
if not book.is then return 0 end
if not is_open(book) then return -1 end
if not is_whole(book) then return -3 end
if book.length >= tonumber(ARGV[3]) or book.bytes >= tonumber(ARGV[4]) then return -2 end
local fact = {}
for i = 5, #ARGV do fact[#fact + 1] = ARGV[i] end
if not append(book, fact) then return -3 end
if is_of_use(book) then wake(KEYS[1], book, ARGV[1]) end
close(book, 'e:' .. ARGV[2], string.format('%.0f %s', book.length, book.run))
return { book.length, 1 }
