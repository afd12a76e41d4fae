-- Of a single Redis: the changed set is a key of the script, and the counters follow it.
local CHANGED, FIRST = KEYS[2], 3
