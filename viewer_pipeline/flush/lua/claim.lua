-- claim: the first part of the scripts that enter a pipeline in the registry: whether this ledger may use this prefix in
-- this Redis. Two pipelines that count the same keys are refused, and so is a second ledger.
local FORMAT = '2'
local OLD = 'format ' .. FORMAT .. ': written by a newer viewer-pipeline; upgrade this program'

-- Redis's own clock, in ms.
local function now_ms()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whether a lease that ends at this time (ms) is held. None is as long as 120 s: then the clock was set back.
local function is_held(expires)
    local left = tonumber(expires or 0) - now_ms()
    return left > 0 and left < 120000
end

-- Identities are `ledger id/system identifier/database oid`. An unknown system identifier matches any.
local function is_same_ledger(identity, other)
    local id, system, oid = string.match(identity, '^([^/]*)/([^/]*)/([^/]*)$')
    local other_id, other_system, other_oid = string.match(other, '^([^/]*)/([^/]*)/([^/]*)$')
    return id and id == other_id and oid == other_oid
        and (system == other_system or system == 'unknown' or other_system == 'unknown')
end

local function starts_with(text, beginning)
    return string.sub(text, 1, #beginning) == beginning
end

-- Why this version must not use a hash: version 0.1.0 wrote `old_field` and no format, or a newer program another format.
local function format_refusal(format, old_field)
    if old_field and not format then
        return 'old', ''
    end
    if format and format ~= FORMAT then
        return 'format', format
    end
end

-- Whether version 0.1.0 wrote one of these keys: under fixed names, without a format.
local function is_old(marker, subscriber)
    return (redis.call('HEXISTS', marker, 'seq') == 1 and redis.call('HEXISTS', marker, 'format') == 0)
        or (redis.call('HEXISTS', subscriber, 'id') == 1 and redis.call('HEXISTS', subscriber, 'format') == 0)
end

-- Make version 0.1.0 refuse these keys: they hold a sentence where it expects a number.
local function keep_old_version_out(marker, subscriber)
    redis.call('HSET', marker, 'format', FORMAT, 'seq', OLD)
    redis.call('HSET', subscriber, 'format', FORMAT, 'until', OLD)
end

-- Another pipeline whose prefix begins with this one, or the other way round; and the place of its database.
local function overlapping(registry, prefix)
    for _, other in ipairs(redis.call('HKEYS', registry)) do
        if other ~= prefix and (starts_with(other, prefix) or starts_with(prefix, other)) then
            local value = redis.call('HGET', registry, other)
            return other .. '\n' .. (string.match(value, '^%S+ (.*)$') or value)
        end
    end
end

-- The other prefix that a ledger already has in this Redis.
local function prefix_of(registry, ledger, prefix)
    for _, other in ipairs(redis.call('HKEYS', registry)) do
        local stored = string.match(redis.call('HGET', registry, other), '^%S+')
        if other ~= prefix and stored and is_same_ledger(stored, ledger) then
            return other
        end
    end
end

-- The ledger in marker or subscriber, and the place of its database.
local function owner_of(...)
    for _, key in ipairs({...}) do
        local ledger, place = unpack(redis.call('HMGET', key, 'ledger', 'place'))
        if ledger then
            return ledger, place or ''
        end
    end
end

-- keys: registry, marker and subscriber of 0.1.0, marker and subscriber of this pipeline.
-- place: host, port and name of the ledger's database.
-- Returns the ledger as Redis stores it; or nil, a reason and its detail.
local function claim(keys, prefix, ledger, place)
    local known = redis.call('HGET', keys[1], prefix)
    if not known then
        if is_old(keys[2], keys[3]) then
            return nil, 'old', ''
        end
        local other = overlapping(keys[1], prefix)
        if other then
            return nil, 'overlap', other
        end
        local second = prefix_of(keys[1], ledger, prefix)
        if second then
            return nil, 'second', second
        end
        -- The entry was lost: it is restored, but not for a ledger that the scripts refuse afterwards.
        local owner, where = owner_of(keys[4], keys[5])
        if owner and not is_same_ledger(owner, ledger) then
            return nil, 'ledger', owner .. ' ' .. where
        end
        redis.call('HSET', keys[1], prefix, (owner or ledger) .. ' ' .. place)
        keep_old_version_out(keys[2], keys[3])
        return owner or ledger
    end
    local stored, where = string.match(known, '^(%S+) (.*)$')
    if not stored or not is_same_ledger(stored, ledger) then
        return nil, 'ledger', known
    end
    if where ~= place then
        redis.call('HSET', keys[1], prefix, stored .. ' ' .. place)
    end
    return stored
end
