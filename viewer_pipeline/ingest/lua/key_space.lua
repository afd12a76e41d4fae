-- key_space: return the id of this key space, the same for all its subscribers; create it if there is none.
-- KEYS: subscriber.  ARGV: an id for a key space that has none.
-- Returns {id}; refused: {-1, reason, detail}. An existing id is only read, so a worker can subscribe to a Redis that
-- refuses writes at the moment.
local id, format = unpack(redis.call('HMGET', KEYS[1], 'id', 'format'))
if id and not format then
    return {-1, 'old', ''}
end
if format and format ~= '2' then
    return {-1, 'format', format}
end
if not id then
    id = ARGV[1]
    redis.call('HSET', KEYS[1], 'id', id, 'format', '2')
end
return {id}
