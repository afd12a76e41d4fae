-- each_shard: the end of a script for several shards of one node, which are served one by one.
-- Redis accepts declared keys of one slot only, so none is declared. Redis checks each command of the script instead: whether
-- all of its keys are here. A shard of which that is not so is refused before it is written to.
-- ARGV: the number of arguments of a shard, and those of the first one; the number of those that the shards do not have in
--       common, and the position of each; then for each shard: the number of its keys, its keys, and these arguments.
-- Returns the reply of each shard: nil if an error came before it was written to, an error if it came later.
local function error_text(raised)
    return type(raised) == 'table' and raised.err or 'ERR ' .. tostring(raised)
end
local at = ARGV[1] + 2
local arguments = {unpack(ARGV, 2, at - 1)}
local own = {}
for i = 1, ARGV[at] do
    own[i] = tonumber(ARGV[at + i])
end
at = at + #own + 1
local replies = {}
while ARGV[at] do
    local last = at + ARGV[at]
    local keys = {unpack(ARGV, at + 1, last)}
    for i = 1, #own do
        arguments[own[i]] = ARGV[last + i]
    end
    at = last + #own + 1
    local is_done, reply = pcall(run_shard, keys, arguments)
    replies[#replies + 1] = is_done and reply or begun and redis.error_reply(error_text(reply))
end
return replies
