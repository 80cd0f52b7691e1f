-- Accepts a call whose caller chose its id: once, however often and through whichever door it is sent; begins with mark.lua.
--
-- From here on the call's id has a mark, which goes in the script that ends the call: from then on its result says that it
-- was there. Refused when memory is full, as every new call is.
--
-- KEYS[1]  the function's stream of calls of its level
-- KEYS[2]  the call's result key
-- KEYS[3]  the mark of its id
-- ARGV[1]  how long the mark lasts if nothing ends the call, in ms
-- ARGV[2…] the call's fields: names and values in turn
--
-- Returns
--   1  accepted
--   0  it was accepted before and has not ended; nothing was changed
--  -1  it has ended, and its result is kept; nothing was changed
local result = redis.pcall('GET', KEYS[2])
if type(result) == 'string' then return -1 end
if is_under_way(KEYS[3]) then return 0 end
local fields = {}
for i = 2, #ARGV do fields[i - 1] = ARGV[i] end
local entry = redis.call('XADD', KEYS[1], '*', unpack(fields))
local level = string.match(KEYS[1], '}:calls:(%l+)$')
redis.call('SET', KEYS[3], level and entry .. '-' .. level or entry, 'PX', ARGV[1])
return 1
