-- name: read_standbys
-- The standbys of this server, and how many have everything up to a WAL position on disk: the given one, else the end of
-- what this server has on disk. A flush that is visible was on disk before, so that end covers it. Nothing that a standby
-- shows counts. A client such as pg_receivewal or a base backup replays nothing, and a logical one is no copy.
WITH here AS MATERIALIZED (
    SELECT
        pg_is_in_recovery() AS in_recovery,
        pg_has_role('pg_read_all_stats', 'USAGE') AS is_permitted,
        %(flush_id)s::uuid IS NULL OR EXISTS (SELECT FROM viewer.flush WHERE flush_id = %(flush_id)s::uuid) AS has_flush,
        CASE WHEN pg_is_in_recovery() THEN NULL
            ELSE coalesce(%(position)s::pg_lsn, pg_current_wal_flush_lsn()) END AS position
), standby AS MATERIALIZED (
    SELECT sender.flush_lsn FROM pg_stat_replication AS sender
    WHERE sender.replay_lsn IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_replication_slots AS slot WHERE slot.active_pid = sender.pid AND slot.slot_type = 'logical'
    )
)
SELECT
    here.in_recovery, here.is_permitted, here.has_flush, here.position::text,
    (SELECT count(*) FROM standby),
    (SELECT count(*) FROM standby WHERE standby.flush_lsn >= here.position),
    current_user
FROM here
