-- cut: end a segment of the channel. Its number is published, so that every subscriber cuts at the same message.
-- Begins with `single_node` or `cluster_node`.
-- KEYS: subscriber.  ARGV: id of the key space; the channel for cuts, which is named after it; fencing token; ledger;
--       number of the last cut that the caller received; the node at which it is subscribed, as of the lease.
-- Returns the message; 0 where another worker holds the lease; -1 where the key space has another id; -4 where the caller
-- is subscribed at another node. The message has the number, that of the last folded segment, and in a cluster more.
-- A repeated call makes one more, empty segment, which is harmless. In a Redis that was emptied or lost its last writes,
-- numbers continue above all that the caller received and all that was folded.
local key_space, channel, token, ledger, last_received, node = unpack(ARGV)
local id, holder, cut, folded, owner =
    unpack(redis.call('HMGET', KEYS[1], 'id', 'holder', 'cut', 'folded', 'ledger'))
if id and id ~= key_space then
    return -1
end
if holder ~= token or (owner or '') ~= ledger then
    return 0
end
if node ~= '' and node ~= own_node() then
    return -4
end
folded = tonumber(folded or 0)
local number = string.format('%.0f', number_after(math.max(tonumber(cut or 0), folded, tonumber(last_received))))
redis.call('HSET', KEYS[1], 'cut', number, 'id', key_space)
local message = number .. string.format(' %.0f', folded) .. order_of_cut(KEYS[1], cut)
redis.call('PUBLISH', channel, message)
return message
