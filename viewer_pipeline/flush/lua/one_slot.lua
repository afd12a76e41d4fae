-- Of a cluster: the changed set is in another slot, and the counters follow the marker.
local CHANGED, FIRST = nil, 2
