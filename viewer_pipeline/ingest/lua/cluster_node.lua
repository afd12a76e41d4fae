-- Of a cluster: the id of this node.
local function own_node()
    return redis.call('CLUSTER', 'MYID')
end

local function now_us()
    local time = redis.call('TIME')
    return time[1] * 1000000 + time[2]
end

-- The next number, or the time of this node in microseconds if that is larger: a node that took over without the last
-- writes of another one gives no number of that one again.
local function number_after(last)
    return math.max(last + 1, now_us())
end

-- What follows the number in the message of a cut: the number of the cut before it at this node, 0 if none is known; and
-- the node. Messages reach each node in an order of its own, so one of them may be before the last cut at another node, and
-- after the first cut here. In a second it has reached all nodes. So it is -1 until a cut that is a second after the first.
local ORDER_US = 1000000
local function order_of_cut(key, previous)
    local node, now = own_node(), now_us()
    local before, since = unpack(redis.call('HMGET', key, 'node', 'node_since'))
    local is_void, age = since and since ~= '0', now - tonumber(since or 0)
    if before ~= node then
        is_void = before
        redis.call('HSET', key, 'node', node, 'node_since', before and string.format('%.0f', now) or '0')
    elseif is_void and age >= ORDER_US then
        redis.call('HSET', key, 'node_since', '0')
    elseif is_void and age < 0 then -- the clock was set back
        redis.call('HSET', key, 'node_since', string.format('%.0f', now))
    end
    return (is_void and ' -1 ' or ' ' .. (previous or '0') .. ' ') .. node
end
