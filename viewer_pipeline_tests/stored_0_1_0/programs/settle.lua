-- settle: subtract one committed batch from its counters and advance the marker, both or neither. Safe to repeat.
-- KEYS: marker, changed set, then the batch's counters.
-- ARGV: seq, batch, of: the batch to settle; seq, batch, epoch: where the marker stands before it;
--       the time (ms) the counters were read; length of the counter prefix; the deltas, separated by blanks.
-- Returns {outcome, seq, batch, of, epoch, drift, ...}: outcome 1 subtracted, 0 already done, -1 refused (marker as it is);
--         drift as text (views that a counter should have held and did not), then the ids that drifted.
local function read_marker()
    return redis.call('HMGET', KEYS[1], 'seq', 'batch', 'of', 'epoch')
end
local at = read_marker()
if not (at[1] and at[2] and at[3]) then
    return {-1, false, false, false, false, '0'}
end
local at_seq, at_batch = tonumber(at[1]), tonumber(at[2])
local seq, batch = tonumber(ARGV[1]), tonumber(ARGV[2])
if (at[4] or '') ~= ARGV[6] then -- Redis was emptied in between: its counters know nothing of this batch
    return {-1, at[1], at[2], at[3], at[4], '0'}
end
if seq < at_seq or (seq == at_seq and batch <= at_batch) then
    return {0, at[1], at[2], at[3], at[4], '0'}
end
if at_seq ~= tonumber(ARGV[4]) or at_batch ~= tonumber(ARGV[5]) then
    return {-1, at[1], at[2], at[3], at[4], '0'}
end
local deltas = {}
for delta in string.gmatch(ARGV[9], '%d+') do
    deltas[#deltas + 1] = delta
end
if #deltas ~= #KEYS - 2 then
    return redis.error_reply('settle: ' .. #deltas .. ' deltas for ' .. (#KEYS - 2) .. ' counters')
end

-- First of all writes, because it can fail: out of memory, a replica, MISCONF. Then nothing has been subtracted.
-- After it, nothing may end the script, or it would be half done: neither a counter that cannot be lowered,
-- nor a changed set of another type.
redis.call('HSET', KEYS[1], 'seq', ARGV[1], 'batch', ARGV[2], 'of', ARGV[3])
local drift = 0
local drifted = {}
local zero = {}
local zero_ids = {}
local values = #KEYS > 2 and redis.call('MGET', unpack(KEYS, 3)) or {}
for i = 3, #KEYS do
    local delta = deltas[i - 2]
    local id = string.sub(KEYS[i], tonumber(ARGV[8]) + 1)
    local left = 0
    if values[i - 2] ~= delta then -- most counters hold what was counted: one DEL for all of those
        left = redis.pcall('DECRBY', KEYS[i], delta)
    end
    if type(left) == 'table' then
        -- Somebody made it no integer any more; it is not ours to touch.
        drift = drift + tonumber(delta)
        drifted[#drifted + 1] = id
    elseif left > 0 then
        -- New views came in since the counters were read: what is pending now is no older than that.
        redis.pcall('ZADD', KEYS[2], 'XX', 'GT', ARGV[7], id)
    else
        zero[#zero + 1] = KEYS[i]
        zero_ids[#zero_ids + 1] = id
        if left < 0 then
            drift = drift - left
            drifted[#drifted + 1] = id
        end
    end
end
if #zero > 0 then
    redis.call('DEL', unpack(zero))
    redis.pcall('ZREM', KEYS[2], unpack(zero_ids))
end
local answer = {1, ARGV[1], ARGV[2], ARGV[3], ARGV[6], string.format('%.0f', drift)}
for i = 1, #drifted do
    answer[#answer + 1] = drifted[i]
end
return answer
