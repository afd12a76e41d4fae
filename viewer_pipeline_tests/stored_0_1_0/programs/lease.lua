-- lease: take, keep or give back the right to fold. One token, one holding. Safe to repeat, however late.
-- KEYS: subscriber.  ARGV: token; for how long (ms; 0 gives it back); who holds it, for people;
--       time (ms) of the last message it heard, 0 if none; the channel for cuts; id of the key space; how many holdings
--       there were as far as the caller knows; the number above which it heard every segment whole, empty if none;
--       how much longer (ms) one that did not hear all must wait; the number up to which the holder has nothing to fold.
-- Returns {outcome, folded, turn}: outcome 2 kept, 1 taken, 0 not taken or given back, -1 the key space has another id;
--         folded: the last segment that was folded; turn: how many holdings there were.
-- Only Redis's own clock decides when a lease is over, and nothing but the speed of a take-over hangs on it.
local at = redis.call('HMGET', KEYS[1], 'holder', 'until', 'folded', 'id', 'turn')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local folded, turn = at[3] or '0', tonumber(at[5] or 0)
if ARGV[2] == '0' then
    if at[1] == ARGV[1] then
        redis.call('HDEL', KEYS[1], 'holder', 'who')
        redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now))
        redis.call('PUBLISH', ARGV[5], 'released')
    end
    return {0, folded, turn}
end
if at[4] and at[4] ~= ARGV[6] then
    return {-1, folded, turn}
end
local mine = at[1] == ARGV[1]
if not mine then
    local left = tonumber(at[2] or 0) - now
    if left > 10 * ARGV[2] then -- no lease is as long: the clock was put back
        left = 0
    end
    -- One that came late folds less than one that was there before, and what is folded is closed for all.
    local whole = ARGV[8] ~= '' and tonumber(ARGV[8]) <= tonumber(folded)
    if not whole and redis.call('PUBSUB', 'NUMSUB', ARGV[5])[2] > 1 then
        left = left + ARGV[9]
    end
    -- An attempt that is sent again after its token had its turn must not bring it back.
    if left > 0 or tonumber(ARGV[7]) ~= turn then
        return {0, folded, turn}
    end
    turn = turn + 1
end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'until', string.format('%.0f', now + ARGV[2]), 'who', ARGV[3],
    'id', ARGV[6], 'turn', turn)
-- Segments without views are closed too: those who came meanwhile have then heard all that is still to be folded.
if mine and tonumber(ARGV[10]) > tonumber(folded) then
    folded = ARGV[10]
    redis.call('HSET', KEYS[1], 'folded', folded)
end
if ARGV[4] ~= '0' then
    redis.call('HSET', KEYS[1], 'heard', ARGV[4])
end
return {mine and 2 or 1, folded, turn}
