-- Common to begin, confirm, drain and settle, which begin with this file.

-- Return the fields of the marker that these scripts reply with: MARKER_FIELDS of marker.py, in its order; then others.
local function read_marker(key, ...)
    return redis.call('HMGET', key, 'flush', 'batch', 'batches', 'epoch', 'flush_id', 'ledger', 'missing', 'timeline',
        'hold', ...)
end
