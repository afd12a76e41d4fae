-- register: enter a pipeline in the registry before it reads anything. Safe to repeat.
-- KEYS: registry, marker and subscriber of version 0.1.0; the pipeline's own marker and subscriber.
-- ARGV: counter prefix; ledger; place of its database.
-- Returns {1, ledger as Redis stores it}; refused: {-1, reason, detail}, and nothing was written.
local format, has, place = unpack(redis.call('HMGET', KEYS[4], 'format', 'ledger', 'place'))
local reason, detail = format_refusal(format)
if reason then
    return {-1, reason, detail}
end
local ledger
ledger, reason, detail = claim(KEYS, ARGV[1], ARGV[2], ARGV[3])
if not ledger then
    return {-1, reason, detail}
end
if has and has ~= ledger then
    return {-1, 'ledger', has .. ' ' .. (place or '')}
end
return {1, ledger}
