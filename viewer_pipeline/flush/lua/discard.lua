-- discard: remove ids out of the changed set whose counter holds nothing to flush at this moment. Safe to repeat.
-- KEYS: marker, changed set, then counters.  ARGV: ledger; length of the counter prefix; 1 to remove them whatever the
--       counters hold.
-- Returns how many were removed. A counter that has views by now keeps its member; so do all, if the marker has another
-- ledger by now.
if redis.call('HGET', KEYS[1], 'ledger') ~= ARGV[1] then
    return 0
end
local idle = {}
for i = 3, #KEYS do
    local value = ARGV[3] == '1' or redis.pcall('GET', KEYS[i])
    if type(value) ~= 'string' or not string.match(value, '^[1-9]%d*$') then
        idle[#idle + 1] = string.sub(KEYS[i], tonumber(ARGV[2]) + 1)
    end
end
if #idle == 0 then
    return 0
end
local removed = redis.pcall('ZREM', KEYS[2], unpack(idle))
return type(removed) == 'number' and removed or 0
