-- name: upgrade
-- One row for each VOD and epoch; a row leaves when an operator has decided. The sum of `views` may be over bigint.
CREATE TABLE viewer.held (
    epoch text NOT NULL,
    vod_id text COLLATE "C" NOT NULL,
    views numeric NOT NULL CHECK (views > 0),
    last_flush bigint NOT NULL,
    held_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (epoch, vod_id)
);
CREATE TABLE viewer.held_decision (
    epoch text NOT NULL,
    decision text NOT NULL CHECK (decision IN ('count', 'drop')),
    vods bigint NOT NULL,
    views numeric NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (epoch, decision)
);
-- Whether the batches of a flush of this mode are views that were counted. Those of a reconciliation correct totals; those of
-- `hold` went to viewer.held.
CREATE FUNCTION viewer.counts_views(mode text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN NOT starts_with(mode, 'reconcile') AND mode <> 'hold';

COMMENT ON TABLE viewer.held IS
    'Views that were found in a Redis without its marker and may have been counted before: docs/how-to/held-views.md';
COMMENT ON COLUMN viewer.held.epoch IS 'Of the marker that was made then';
COMMENT ON COLUMN viewer.held.last_flush IS 'The last flush that held views of this VOD';
COMMENT ON TABLE viewer.held_decision IS 'What operators decided about held views';
COMMENT ON FUNCTION viewer.counts_views(text) IS 'Whether the batches of a flush of this mode are views that were counted';

-- name: downgrade
-- Refuse to lose views.
DO $$
BEGIN
    IF EXISTS (SELECT FROM viewer.held) THEN
        RAISE EXCEPTION 'viewer.held has views: decide with `viewer-pipeline held count` or `held drop` first';
    END IF;
END $$;
DROP FUNCTION viewer.counts_views(text);
DROP TABLE viewer.held_decision, viewer.held;
