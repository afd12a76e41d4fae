-- lease: acquire, renew or release the right to fold. One fencing token for one term. Safe to repeat, however late.
-- Begins with `claim`, and `single_node` or `cluster_node`.
-- KEYS: subscriber, registry, marker and subscriber of version 0.1.0, marker and subscriber.
-- ARGV: fencing token; duration (ms; 0 releases the lease); the worker, for people; time (ms) of the last message that it
--       received, 0 if none; the channel for cuts; id of the key space; the newest term that the caller knows; the number
--       above which it received every segment completely, empty if none; how much longer (ms) a worker that did not
--       receive everything must wait, and how long it must have tried; the number up to which the holder has nothing to
--       fold; counter prefix; ledger, empty while it is unknown; place of its database; the id of the node at which it is
--       subscribed, empty if it is not, and without a cluster.
-- Returns {outcome, folded, term, ledger}: outcome 2 renewed, 1 acquired, 0 held by another worker or released, -1 the
--         key space has another id, -3 the ledger must be known, -4 it is subscribed at another node than this one;
--         folded: the last folded segment; term: the newest one; ledger: as Redis knows it. Refused: {-2, reason, detail}.
-- Only Redis's clock decides when a lease is over, and only the speed of a takeover depends on it.
local token, lease_ms, worker, last_message, channel, key_space, known_term, complete_after, grace_ms, empty_through,
    prefix, own_ledger, own_place, node = unpack(ARGV)
local holder, expires, folded, id, term, ledger, place, format, late, tried = unpack(redis.call('HMGET', KEYS[1],
    'holder', 'expires', 'folded', 'id', 'term', 'ledger', 'place', 'format', 'late', 'tried'))
local now = now_ms()
folded, term = folded or '0', tonumber(term or 0)
if lease_ms == '0' then
    if holder == token then
        redis.call('HDEL', KEYS[1], 'holder', 'worker')
        redis.call('HSET', KEYS[1], 'expires', string.format('%.0f', now))
        redis.call('PUBLISH', channel, 'released')
    end
    return {0, folded, term, ''}
end
if node ~= '' and node ~= own_node() then
    return {-4, folded, term, ''}
end
if format and format ~= FORMAT then
    return {-2, 'format', format}
end
if own_ledger == '' then
    -- PostgreSQL does not answer. The database at the same place had this ledger when it answered last.
    if not ledger or place ~= own_place then
        return {-3, folded, term, ''}
    end
else
    local claimed, reason, detail = claim({unpack(KEYS, 2)}, prefix, own_ledger, own_place)
    if not claimed then
        return {-2, reason, detail}
    end
    if ledger and ledger ~= claimed then
        return {-2, 'ledger', ledger .. ' ' .. (place or '')}
    end
    ledger = claimed
end
if id and id ~= key_space then
    return {-1, folded, term, ''}
end
local renewed = holder == token
if not renewed then
    local left = tonumber(expires or 0) - now
    if left > 10 * lease_ms then -- no lease is as long: the clock was set back
        left = 0
    end
    -- A worker that came late has received less than one that was subscribed before, and what is folded is closed for all.
    local complete = complete_after ~= '' and tonumber(complete_after) <= tonumber(folded)
    if not complete then
        -- When Redis accepts writes again, the lease may have been over for long, and the holder be on its way with all
        -- that it received meanwhile, not yet subscribed here. So an incomplete worker must also have tried for a while.
        local since, last_tried = tonumber(late or 0), tonumber(tried or 0)
        if last_tried > now or now - last_tried > 3 * grace_ms then
            since = now
        end
        local note = left > 0 and redis.pcall or redis.call -- standing by must not fail while the lease is held
        note('HSET', KEYS[1], 'late', string.format('%.0f', since), 'tried', string.format('%.0f', now))
        local outage = holder and left < -grace_ms
        local others = redis.call('PUBSUB', 'NUMSUB', channel)[2] > 1
        if others then
            left = left + grace_ms
        end
        if others or outage then
            left = math.max(left, since + grace_ms - now)
        end
    end
    -- A repeated attempt whose token already had its term must not bring that term back.
    if left > 0 or tonumber(known_term) ~= term then
        return {0, folded, term, ledger}
    end
    term = term + 1
end
redis.call('HSET', KEYS[1], 'holder', token, 'expires', string.format('%.0f', now + lease_ms), 'worker', worker,
    'id', key_space, 'term', term, 'ledger', ledger, 'place', own_place, 'format', FORMAT, 'until', OLD)
-- Segments without views are closed too: workers that subscribed meanwhile have then received all that is left to fold.
if renewed and tonumber(empty_through) > tonumber(folded) then
    folded = empty_through
    redis.call('HSET', KEYS[1], 'folded', folded)
end
if last_message ~= '0' then
    redis.call('HSET', KEYS[1], 'last_message', last_message)
end
return {renewed and 2 or 1, folded, term, ledger}
