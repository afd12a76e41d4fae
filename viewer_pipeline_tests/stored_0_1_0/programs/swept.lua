-- swept: take back the request for a sweep that has been done, unless a newer one came in. Safe to repeat.
-- KEYS: subscriber.  ARGV: the request as it was before the sweep.  Returns 1 if it was taken back.
if redis.call('HGET', KEYS[1], 'sweep') == ARGV[1] then
    return redis.call('HDEL', KEYS[1], 'sweep')
end
return 0
