-- segment_part: common to the scripts that write a part of a segment, which begin with this file.

-- The numbers in a text, as texts.
local function numbers_in(text)
    local numbers = {}
    for number in string.gmatch(text, '%d+') do
        numbers[#numbers + 1] = number
    end
    return numbers
end

-- The reply if nothing is to be written: {0} the part was written before, {-2, parts} the segment was begun in another
-- number of parts. nil: the part is to be written. `folded`: the last segment that is closed, nil if none; then of the
-- segment that was begun last, as stored: number, last written part, number of parts.
local function reply_unless_new(segment, part, parts, folded, begun, written, begun_parts)
    local number, begun_number = tonumber(segment), tonumber(begun or 0)
    -- A segment that was begun closes all before it: folding one of those would lose the record of the written parts.
    if number <= tonumber(folded or 0) or number < begun_number then
        return {0}
    end
    if number == begun_number then
        -- Parts are cut by a hash of the id, so the parts of two workers agree, but only if there are as many.
        if begun_parts ~= parts then
            return {-2, tonumber(begun_parts)}
        end
        if tonumber(part) <= tonumber(written) then
            return {0}
        end
    end
end

-- Begin to write a part: compare token and ledger of the lease, and record the part in the subscriber's hash, KEYS[1].
-- Returns the reply if nothing is to be written: {-1} another worker holds the lease, or that of `reply_unless_new`.
-- The first of all writes of a script, because it can fail (out of memory, a replica): then nothing has been written.
local function begin_part(token, ledger, segment, part, parts)
    local holder, folded, begun, written, begun_parts, owner =
        unpack(redis.call('HMGET', KEYS[1], 'holder', 'folded', 'segment', 'part', 'parts', 'ledger'))
    if holder ~= token or (owner or '') ~= ledger then
        return {-1}
    end
    local reply = reply_unless_new(segment, part, parts, folded, begun, written, begun_parts)
    if not reply then
        redis.call('HSET', KEYS[1], 'segment', segment, 'part', part, 'parts', parts,
            'folded', part == parts and segment or folded or 0)
    end
    return reply
end
