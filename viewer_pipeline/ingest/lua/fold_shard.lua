-- fold_shard: write one part of the views that a segment has for one shard of a cluster, once, whichever worker sends it and
-- however often. The lease is in another slot: the marker of the shard has the segment that was folded there last.
-- All keys are declared, so that Redis refuses the script while some of them are at another node (rule R15).
-- KEYS: marker, then counters, all in one slot.
-- ARGV: ledger; segment number; part; number of parts; the views, separated by blanks.
-- Returns {outcome, ...}: 1 this call wrote the part; 0 it was written before; -1 the counters belong to another ledger; -2
--         the segment was begun in another number of parts, which follows. After a 1: counters that cannot be raised, as
--         pairs of position and error.
local ledger, segment, part, parts, counts = unpack(ARGV)
local begun, written, begun_parts, owner = unpack(redis.call('HMGET', KEYS[1], 'segment', 'part', 'parts', 'ledger'))
if owner and owner ~= ledger then
    return {-1}
end
local reply = reply_unless_new(segment, part, parts, nil, begun, written, begun_parts)
if reply then
    return reply
end
-- First of all writes, because it can fail (out of memory, a replica): then nothing has been counted.
redis.call('HSET', KEYS[1], 'segment', segment, 'part', part, 'parts', parts)
reply = {1}
local position = 1
for count in string.gmatch(counts, '%d+') do
    local raised = redis.pcall('INCRBY', KEYS[position + 1], count)
    if type(raised) == 'table' then
        reply[#reply + 1] = position
        reply[#reply + 1] = raised['err']
    end
    position = position + 1
end
return reply
