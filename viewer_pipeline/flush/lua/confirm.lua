-- confirm: after the last read, write the run's id again and return the marker. Safe to repeat.
-- KEYS: marker.  ARGV: run id; ledger; epoch; 1 if it is recorded that the marker is new.
-- Returns the fields of the marker. If it has another ledger or epoch by now, nothing is written.
local at = redis.call('HMGET', KEYS[1], 'ledger', 'epoch')
if at[1] == ARGV[2] and at[2] == ARGV[3] then
    redis.call('HSET', KEYS[1], 'run', ARGV[1])
    if ARGV[4] == '1' then
        redis.call('HDEL', KEYS[1], 'unreported')
    end
end
return read_marker(KEYS[1])
