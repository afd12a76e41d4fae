-- lease: take, keep or give back the right to fold. One token, one holding. Safe to repeat, however late.
-- KEYS: subscriber, registry, marker and subscriber of version 0.1.0, marker and subscriber.
-- ARGV: token; for how long (ms; 0 gives it back); who holds it, for people;
--       time (ms) of the last message it received, 0 if none; the channel for cuts; id of the key space; how many terms
--       there were as far as the caller knows; the number above which it received every segment whole, empty if none;
--       how much longer (ms) one that did not receive all must wait, and how long it must have tried; the number up to
--       which the holder has nothing to fold; counter prefix; ledger, empty while it is not known; place of its database.
-- Returns {outcome, folded, term, ledger}: outcome 2 kept, 1 taken, 0 not taken or given back, -1 the key space has
--         another id, -3 the ledger must be known; folded: the last segment that was folded; term: how many there were;
--         ledger: as Redis knows it. Refused: {-2, reason, detail}.
-- Only Redis's own clock decides when a lease is over, and nothing but the speed of a take-over depends on it.
local at = redis.call('HMGET', KEYS[1], 'holder', 'expires', 'folded', 'id', 'term', 'ledger', 'place', 'format',
    'late', 'tried')
local now = now_ms()
local folded, term = at[3] or '0', tonumber(at[5] or 0)
if ARGV[2] == '0' then
    if at[1] == ARGV[1] then
        redis.call('HDEL', KEYS[1], 'holder', 'who')
        redis.call('HSET', KEYS[1], 'expires', string.format('%.0f', now))
        redis.call('PUBLISH', ARGV[5], 'released')
    end
    return {0, folded, term, ''}
end
if at[8] and at[8] ~= FORMAT then
    return {-2, 'format', at[8]}
end
local ledger, reason, detail = ARGV[12], nil, nil
if ledger == '' then
    -- PostgreSQL cannot be asked. The database at the same place was this ledger when it was asked last.
    if not at[6] or at[7] ~= ARGV[13] then
        return {-3, folded, term, ''}
    end
    ledger = at[6]
else
    ledger, reason, detail = claim({unpack(KEYS, 2)}, ARGV[11], ledger, ARGV[13])
    if not ledger then
        return {-2, reason, detail}
    end
    if at[6] and at[6] ~= ledger then
        return {-2, 'ledger', at[6] .. ' ' .. (at[7] or '')}
    end
end
if at[4] and at[4] ~= ARGV[6] then
    return {-1, folded, term, ''}
end
local mine = at[1] == ARGV[1]
if not mine then
    local left = tonumber(at[2] or 0) - now
    if left > 10 * ARGV[2] then -- no lease is as long: the clock was put back
        left = 0
    end
    -- One that came late folds less than one that was there before, and what is folded is closed for all.
    local whole = ARGV[8] ~= '' and tonumber(ARGV[8]) <= tonumber(folded)
    if not whole then
        -- The lease may be over for long when Redis takes writes again, and the holder be on its way with all that it
        -- received meanwhile, not even subscribed here. So such ones have to try for a while, too.
        local since, tried = tonumber(at[9] or 0), tonumber(at[10] or 0)
        if tried > now or now - tried > 3 * ARGV[9] then
            since = now
        end
        local note = left > 0 and redis.pcall or redis.call -- as long as it is held, to stand by must not fail
        note('HSET', KEYS[1], 'late', string.format('%.0f', since), 'tried', string.format('%.0f', now))
        local outage = at[1] and left < -ARGV[9]
        local others = redis.call('PUBSUB', 'NUMSUB', ARGV[5])[2] > 1
        if others then
            left = left + ARGV[9]
        end
        if others or outage then
            left = math.max(left, since + ARGV[9] - now)
        end
    end
    -- An attempt that is sent again after its token had its term must not bring it back.
    if left > 0 or tonumber(ARGV[7]) ~= term then
        return {0, folded, term, ledger}
    end
    term = term + 1
end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'expires', string.format('%.0f', now + ARGV[2]), 'who', ARGV[3],
    'id', ARGV[6], 'term', term, 'ledger', ledger, 'place', ARGV[13], 'format', FORMAT, 'until', OLD)
-- Segments without views are closed too: those who came meanwhile have then received all that is still to be folded.
if mine and tonumber(ARGV[10]) > tonumber(folded) then
    folded = ARGV[10]
    redis.call('HSET', KEYS[1], 'folded', folded)
end
if ARGV[4] ~= '0' then
    redis.call('HSET', KEYS[1], 'last_message', ARGV[4])
end
return {mine and 2 or 1, folded, term, ledger}
