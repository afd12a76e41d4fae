-- begin: note the run that starts, make the marker if there is none, return it. Safe to repeat.
-- KEYS: marker.  ARGV: run id, then the ledger's last seq and its number of batches; the epoch of a marker that is made.
-- Returns {made, seq, batch, of, epoch}; made is 1 where there was no marker, or where no run has told of that yet
-- (`untold`): who made it may have died, or never got the answer.
-- The write comes first, so that a Redis that refuses writes refuses the run before anything is committed.
redis.call('HSET', KEYS[1], 'run', ARGV[1])
local made = redis.call('HSETNX', KEYS[1], 'seq', ARGV[2])
if made == 1 then
    redis.call('HSET', KEYS[1], 'batch', ARGV[3], 'of', ARGV[3], 'epoch', ARGV[4])
    if ARGV[2] ~= '0' then
        redis.call('HSET', KEYS[1], 'untold', 1)
    end
end
local marker = redis.call('HMGET', KEYS[1], 'seq', 'batch', 'of', 'epoch', 'untold')
return {(made == 1 or marker[5]) and 1 or 0, marker[1], marker[2], marker[3], marker[4]}
