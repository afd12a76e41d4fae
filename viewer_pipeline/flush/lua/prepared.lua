-- prepared: record that all shards of a cluster have a marker, and the highest number that any of them has settled.
-- Safe to repeat.
-- KEYS: the marker of the home slot.  ARGV: the timeline of PostgreSQL that all markers have; that number.
redis.call('HSET', KEYS[1], 'prepared', ARGV[1])
if tonumber(redis.call('HGET', KEYS[1], 'floor') or 0) < tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[1], 'floor', ARGV[2])
end
return 1
