-- segment_part: common to the scripts that write a part of a segment, which begin with this file.

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
