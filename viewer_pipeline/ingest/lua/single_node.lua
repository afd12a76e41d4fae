-- Of a single Redis: there is no other node, and numbers are given one after the other.
local function own_node()
    return ''
end

local function number_after(last)
    return last + 1
end

local function order_of_cut()
    return ''
end
