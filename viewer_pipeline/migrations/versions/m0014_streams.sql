-- name: upgrade
-- Streams: which part of the VODs each is of, and positions in the ledger that have one end for each stream.
CREATE TABLE viewer.stream (
    stream smallint PRIMARY KEY CHECK (stream >= 0),
    part smallint NOT NULL,
    parts smallint NOT NULL CHECK (part >= 0 AND part < parts),
    state text NOT NULL CHECK (state IN ('planned', 'active', 'closing', 'closed')),
    epoch text NOT NULL DEFAULT '',
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO viewer.stream (stream, part, parts, state) VALUES (0, 0, 1, 'active');

CREATE FUNCTION viewer.stream_of(seq bigint) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (seq / 1000000000000)::smallint;
CREATE FUNCTION viewer.stream_start(seq bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN seq / 1000000000000 * 1000000000000;
CREATE FUNCTION viewer.stream_end(seq bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN seq / 1000000000000 * 1000000000000 + 999999999999;
-- The flushes that are committed now, as one range for each stream.
CREATE FUNCTION viewer.ledger_position() RETURNS int8multirange LANGUAGE sql STABLE PARALLEL SAFE
RETURN (
    SELECT coalesce(range_agg(int8range(viewer.stream_start(f.seq), f.seq, '[]')), '{}')
    FROM viewer.stream AS s
    CROSS JOIN LATERAL (
        SELECT seq FROM viewer.flush
        WHERE seq >= s.stream * 1000000000000 AND seq < (s.stream + 1) * 1000000000000
        ORDER BY seq DESC LIMIT 1
    ) AS f
);
-- All flushes of closed streams: Redis has settled them.
CREATE FUNCTION viewer.closed_flushes() RETURNS int8multirange LANGUAGE sql STABLE PARALLEL SAFE
RETURN (
    SELECT coalesce(range_agg(int8range(stream * 1000000000000, (stream + 1) * 1000000000000)), '{}')
    FROM viewer.stream WHERE state = 'closed'
);

ALTER TABLE viewer.daily_rollup ADD COLUMN through int8multirange;
UPDATE viewer.daily_rollup SET through = int8multirange(int8range(0, last_flush, '[]'));
ALTER TABLE viewer.daily_rollup ALTER COLUMN through SET NOT NULL, DROP COLUMN last_flush;

ALTER TABLE viewer.pruned_flushes ADD COLUMN stream smallint NOT NULL DEFAULT 0;
ALTER TABLE viewer.pruned_flushes ALTER COLUMN stream DROP DEFAULT;
ALTER TABLE viewer.pruned_flushes DROP CONSTRAINT pruned_flushes_pkey, ADD PRIMARY KEY (mode, stream);

-- The number of a flush names its stream.
ALTER TABLE viewer.flush DROP COLUMN stream;
ALTER TABLE viewer.flush_batch DROP COLUMN stream;

COMMENT ON TABLE viewer.stream IS 'Numberings of flushes, each of a part of the VODs: docs/how-to/streams.md';
COMMENT ON COLUMN viewer.stream.state IS
    'active: flushes commit in it; closing: none does any more; closed: all are settled; planned: none does yet';
COMMENT ON COLUMN viewer.stream.epoch IS 'Of the markers with which the stream begins; the first stream has none';
COMMENT ON FUNCTION viewer.stream_of(bigint) IS 'The stream that a flush belongs to, by its number';
COMMENT ON FUNCTION viewer.ledger_position() IS 'The flushes that are committed now, as one range for each stream';
COMMENT ON FUNCTION viewer.closed_flushes() IS 'All flushes of streams that are closed, and so settled in Redis';
COMMENT ON COLUMN viewer.daily_rollup.through IS
    'Of each stream, all up to the last flush of this day that is rolled up';

-- name: downgrade
-- Refuse to lose which stream a flush belongs to.
DO $$
BEGIN
    IF EXISTS (SELECT FROM viewer.stream WHERE stream > 0) THEN
        RAISE EXCEPTION 'viewer.flush has, or had, flushes of several streams, which the version before cannot settle';
    END IF;
END $$;
ALTER TABLE viewer.flush_batch ADD COLUMN stream smallint NOT NULL DEFAULT 0 CHECK (stream >= 0);
ALTER TABLE viewer.flush ADD COLUMN stream smallint NOT NULL DEFAULT 0 CHECK (stream >= 0);
ALTER TABLE viewer.pruned_flushes DROP CONSTRAINT pruned_flushes_pkey, DROP COLUMN stream, ADD PRIMARY KEY (mode);
ALTER TABLE viewer.daily_rollup ADD COLUMN last_flush bigint;
UPDATE viewer.daily_rollup SET last_flush = coalesce(upper(through) - 1, 0);
ALTER TABLE viewer.daily_rollup ALTER COLUMN last_flush SET NOT NULL, DROP COLUMN through;
DROP FUNCTION viewer.closed_flushes(), viewer.ledger_position(), viewer.stream_end(bigint), viewer.stream_start(bigint), viewer.stream_of(bigint);
DROP TABLE viewer.stream;
