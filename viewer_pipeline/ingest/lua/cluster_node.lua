-- Of a cluster: the id of this node.
local function own_node()
    return redis.call('CLUSTER', 'MYID')
end

-- The next number, or the time of this node in microseconds if that is larger: a node that took over without the last
-- writes of another one gives no number of that one again.
local function number_after(last)
    local time = redis.call('TIME')
    return math.max(last + 1, time[1] * 1000000 + time[2])
end
