-- swept: remove the request for a sweep that is complete, unless a newer one came in. Safe to repeat.
-- KEYS: subscriber, marker.  ARGV: the request as it was before the sweep; ledger.  Returns 1 if it was removed.
if redis.call('HGET', KEYS[1], 'sweep') == ARGV[1] and redis.call('HGET', KEYS[2], 'ledger') == ARGV[2] then
    return redis.call('HDEL', KEYS[1], 'sweep')
end
return 0
