-- settle: subtract one committed batch from its counters and advance the marker, both or neither. Safe to repeat.
-- Begins with `all_keys_together` or `one_slot`, which say where the changed set is; ends with `one_shard` or `each_shard`.
local begun -- whether the shard was written to

-- KEYS: marker, the changed set if it is in the same place, then the batch's counters.
-- ARGV: flush, batch, batches: the batch to settle; its flush id; flush, batch, epoch, ledger: where the marker stands
--       before it; the time (ms) the counters were read; length of the counter prefix; the deltas, separated by blanks;
--       flushes that the ledger lacks, as `after through`, empty if none: stored in the marker; the timeline of the ledger;
--       what `hold` becomes, empty if it stays: if this batch is skipped although it has views, or if the ledger lacks
--       flushes before it that Redis has not settled.
-- Returns {outcome, drift, fields of the marker, ...}: outcome 1 subtracted, 0 already done, -1 refused (marker unchanged);
--         drift as text (views missing from counters); the marker; then the ids of the counters that lacked views.
local function run_shard(KEYS, ARGV)
    begun = false
    local at = read_marker(KEYS[1])
    local function reply(outcome, drift)
        return {outcome, string.format('%.0f', drift), unpack(at, 1, 9)}
    end
    if not (at[1] and at[2]) then
        return reply(-1, 0)
    end
    -- Redis was emptied in between, and its counters do not contain this batch; or it has another ledger by now.
    if (at[4] or '') ~= ARGV[7] or (at[6] or '') ~= ARGV[8] then
        return reply(-1, 0)
    end
    local at_flush, at_batch = tonumber(at[1]), tonumber(at[2])
    local flush, batch = tonumber(ARGV[1]), tonumber(ARGV[2])
    -- The marker has another flush under this number: of a copy of this ledger, or one that PostgreSQL has lost.
    if flush == at_flush and (at[5] or '') ~= '' and at[5] ~= ARGV[4] then
        return reply(-1, 0)
    end
    if flush < at_flush or (flush == at_flush and batch <= at_batch) then
        return reply(0, 0)
    end
    if at_flush ~= tonumber(ARGV[5]) or at_batch ~= tonumber(ARGV[6]) then
        return reply(-1, 0)
    end
    -- Another run began after PostgreSQL may have lost this flush.
    if (at[8] or '') ~= ARGV[13] then
        return reply(-1, 0)
    end
    local values = #KEYS >= FIRST and redis.call('MGET', unpack(KEYS, FIRST)) or {}
    -- Whether every counter holds exactly its delta, as most do: one comparison of texts. If a counter is missing, concat
    -- fails, and `joined` is its error message.
    local _, joined = pcall(table.concat, values, ' ')
    local all_equal = #KEYS >= FIRST and joined == ARGV[11]
    local deltas = {}
    if not all_equal then
        for delta in string.gmatch(ARGV[11], '%d+') do
            deltas[#deltas + 1] = delta
        end
        if #deltas ~= #KEYS - FIRST + 1 then
            return redis.error_reply('settle: ' .. #deltas .. ' deltas for ' .. (#KEYS - FIRST + 1) .. ' counters')
        end
    end

    -- First of all writes, because it can fail: out of memory, a replica, MISCONF. Then nothing has been subtracted.
    -- After it, nothing may end the script, or it would be half done: neither a counter that cannot be lowered,
    -- nor a changed set of another type.
    redis.call('HSET', KEYS[1], 'flush', ARGV[1], 'batch', ARGV[2], 'batches', ARGV[3], 'flush_id', ARGV[4])
    begun = true
    at[1], at[2], at[3], at[5] = unpack(ARGV, 1, 4)
    if ARGV[12] ~= '' then
        redis.call('HSET', KEYS[1], 'missing', ARGV[12])
        at[7] = ARGV[12]
    end
    -- The views of such flushes may be in these counters.
    if ARGV[14] ~= '' then
        redis.call('HSET', KEYS[1], 'hold', ARGV[14])
        at[9] = ARGV[14]
    end
    local id_start = tonumber(ARGV[10]) + 1
    -- Delete counters in which nothing is left, and their members of the changed set, if there is one.
    local function delete_from(keys, first)
        redis.call('DEL', unpack(keys, first))
        if CHANGED and redis.pcall('ZCARD', CHANGED) ~= 0 then
            local ids = {}
            for i = first, #keys do
                ids[#ids + 1] = string.sub(keys[i], id_start)
            end
            redis.pcall('ZREM', CHANGED, unpack(ids))
        end
    end
    if all_equal then
        delete_from(KEYS, FIRST)
        return reply(1, 0)
    end
    local drift = 0
    local drifted = {}
    local zero = {}
    for i = FIRST, #KEYS do
        local delta = deltas[i - FIRST + 1]
        local left = 0
        if values[i - FIRST + 1] ~= delta then
            left = redis.pcall('DECRBY', KEYS[i], delta)
        end
        if type(left) == 'table' then
            -- Another program wrote something that is no integer: leave it.
            drift = drift + tonumber(delta)
            drifted[#drifted + 1] = string.sub(KEYS[i], id_start)
        elseif left > 0 then
            -- New views came in since the counters were read: none of them is older than that.
            if CHANGED then
                redis.pcall('ZADD', CHANGED, 'XX', 'GT', ARGV[9], string.sub(KEYS[i], id_start))
            end
        else
            zero[#zero + 1] = KEYS[i]
            if left < 0 then
                drift = drift - left
                drifted[#drifted + 1] = string.sub(KEYS[i], id_start)
            end
        end
    end
    if #zero > 0 then
        delete_from(zero, 1)
    end
    local done = reply(1, drift)
    for i = 1, #drifted do
        done[#done + 1] = drifted[i]
    end
    return done
end
