-- forget: take ids out of the changed set whose counter holds nothing to flush at this moment. Safe to repeat.
-- KEYS: changed set, then counters.  ARGV: length of the counter prefix.
-- Returns how many were taken out. A counter that has views by now keeps its member.
local gone = {}
for i = 2, #KEYS do
    local value = redis.pcall('GET', KEYS[i])
    if type(value) ~= 'string' or not string.match(value, '^[1-9]%d*$') then
        gone[#gone + 1] = string.sub(KEYS[i], tonumber(ARGV[1]) + 1)
    end
end
if #gone == 0 then
    return 0
end
local taken = redis.pcall('ZREM', KEYS[1], unpack(gone))
return type(taken) == 'number' and taken or 0
