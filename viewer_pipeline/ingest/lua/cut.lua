-- cut: end a segment of the channel. Its number is published, so that every subscriber cuts at the same message.
-- KEYS: subscriber.  ARGV: id of the key space, which the channel for cuts is named after; that channel; token of the
--       lease; ledger; the last number that the caller received.
-- Returns the number; 0 if another holds the lease; -1 if the key space has another id by now.
-- Sent twice it makes an empty segment more, which nobody misses. After a Redis that was emptied or lost its last
-- writes, the numbers go on above all that the caller knows and all that was folded.
local at = redis.call('HMGET', KEYS[1], 'id', 'holder', 'cut', 'folded', 'ledger')
if at[1] and at[1] ~= ARGV[1] then
    return -1
end
if at[2] ~= ARGV[3] or (at[5] or '') ~= ARGV[4] then
    return 0
end
local folded = tonumber(at[4] or 0)
local number = string.format('%.0f', math.max(tonumber(at[3] or 0), folded, tonumber(ARGV[5])) + 1)
redis.call('HSET', KEYS[1], 'cut', number, 'id', ARGV[1])
redis.call('PUBLISH', ARGV[2], number .. string.format(' %.0f', folded))
return tonumber(number)
