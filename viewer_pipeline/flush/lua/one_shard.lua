-- one_shard: the end of a script for one shard. All its keys are declared.
return run_shard(KEYS, ARGV)
