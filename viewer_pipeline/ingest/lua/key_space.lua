-- key_space: return the id of this key space, the same for all its subscribers; create it if there is none.
-- KEYS: subscriber.  ARGV: an id for a key space that has none.
-- Returns {id}; refused: {-1, reason, detail}. An existing id is only read, so a worker can subscribe to a Redis that
-- refuses writes at the moment.
local id, format = unpack(redis.call('HMGET', KEYS[1], 'id', 'format'))
local reason, detail = format_refusal(format, id)
if reason then
    return {-1, reason, detail}
end
if not id then
    id = ARGV[1]
    redis.call('HSET', KEYS[1], 'id', id, 'format', FORMAT)
end
return {id}
