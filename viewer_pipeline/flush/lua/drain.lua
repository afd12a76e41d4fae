-- drain: of one shard of a cluster, write the id and the timeline of the run into the marker, create it if there is none,
-- and return it together with counters as of this moment. Safe to repeat.
-- Ends with `one_shard` or `each_shard`.
local begun -- whether the shard was written to

-- KEYS: marker, then counters, all in one slot.
-- ARGV: run id; the ledger's last seq, its number of batches and its flush id; the epoch of a new marker; ledger, as the
--       registry has it; place of its database; the timeline in which the last seq was read; the timeline that this run saw
--       in the marker before it read that, after a '='; empty if none.
-- Returns {made, fields of the marker, ...}: made is 1 if there was no marker; then the value of each counter, nil where a
-- key is missing or no string. A marker that is made where the ledger has flushes gets `hold` (rule R16).
-- If the marker has a third timeline, that stays: the ledger must be read again, as PostgreSQL may have lost flushes since.
-- Refused: {-1, reason, detail}; then nothing was written.
local function run_shard(KEYS, ARGV)
    begun = false
    -- First of all, one command that has all keys: Redis refuses it while some of them are at another node (rule R15).
    local values = redis.call('MGET', unpack(KEYS))
    local at = read_marker(KEYS[1], 'format', 'place')
    local ledger, timeline, place = at[6], at[8], at[11] or ''
    local reason, detail = format_refusal(at[10])
    if reason then
        return {-1, reason, detail}
    end
    if ledger and ledger ~= ARGV[6] then
        return {-1, 'ledger', ledger .. ' ' .. place}
    end
    local changes = {'run', ARGV[1]}
    local function set(field, value)
        changes[#changes + 1] = field
        changes[#changes + 1] = value
    end
    if not (at[10] and ledger and place == ARGV[7]) then
        set('format', FORMAT)
        set('ledger', ARGV[6])
        set('place', ARGV[7])
    end
    local made = not at[1]
    if made then
        set('flush', ARGV[2])
        set('batch', ARGV[3])
        set('batches', ARGV[3])
        set('flush_id', ARGV[4])
        set('epoch', ARGV[5])
        if ARGV[2] ~= '0' then
            set('hold', ARGV[5])
        end
    end
    if (made or '=' .. (timeline or '') == ARGV[9]) and timeline ~= ARGV[8] then
        set('timeline', ARGV[8])
    end
    redis.call('HSET', KEYS[1], unpack(changes))
    begun = true
    local marker = #changes > 2 and read_marker(KEYS[1]) or at
    local reply = {made and 1 or 0, unpack(marker, 1, 9)}
    for i = 2, #KEYS do
        reply[#reply + 1] = values[i]
    end
    return reply
end
