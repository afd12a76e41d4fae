-- swept: take back the request for a sweep that has been done, unless a newer one came in. Safe to repeat.
-- KEYS: subscriber, marker.  ARGV: the request as it was before the sweep; ledger.  Returns 1 if it was taken back.
if redis.call('HGET', KEYS[1], 'sweep') == ARGV[1] and redis.call('HGET', KEYS[2], 'ledger') == ARGV[2] then
    return redis.call('HDEL', KEYS[1], 'sweep')
end
return 0
