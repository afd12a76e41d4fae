-- name: held_by_epoch
-- What is held, by the epoch of the marker that was made when Redis had lost its own; oldest first.
SELECT epoch, count(*), sum(views), min(held_at) FROM viewer.held GROUP BY epoch ORDER BY min(held_at), epoch

-- name: held_page
-- The first held VODs of an epoch, and as many of their views as one flush can count.
SELECT vod_id, least(views, 9223372036854775807)::bigint FROM viewer.held WHERE epoch = %(epoch)s ORDER BY vod_id LIMIT %(limit)s

-- name: take_counted
-- Remove what a flush counts, and record the decision. Returns how many rows were as the flush has them. Of more views than
-- bigint holds the rest stays, for the next flush.
WITH counted AS (
    SELECT c.vod_id COLLATE "C" AS vod_id, c.delta
    FROM viewer.flush_batch AS b, unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
    WHERE b.seq = %(seq)s
), removed AS (
    DELETE FROM viewer.held AS h USING counted AS c
    WHERE h.epoch = %(epoch)s AND h.vod_id = c.vod_id AND h.views = c.delta
    RETURNING c.delta
), lowered AS (
    UPDATE viewer.held AS h SET views = h.views - c.delta FROM counted AS c
    WHERE h.epoch = %(epoch)s AND h.vod_id = c.vod_id AND h.views > c.delta AND c.delta = 9223372036854775807
    RETURNING c.delta
), decided AS (
    SELECT delta FROM removed UNION ALL SELECT delta FROM lowered
), recorded AS (
    INSERT INTO viewer.held_decision AS d (epoch, decision, vods, views)
    SELECT %(epoch)s, 'count', count(*), coalesce(sum(delta), 0) FROM decided
    ON CONFLICT (epoch, decision) DO UPDATE SET
        vods = d.vods + excluded.vods, views = d.views + excluded.views, decided_at = excluded.decided_at
)
SELECT count(*) FROM decided

-- name: drop_held
-- Drop a page of what is held, and record the decision. Returns numbers of VODs and views.
WITH page AS (
    SELECT epoch, vod_id FROM viewer.held WHERE epoch = %(epoch)s ORDER BY vod_id LIMIT %(limit)s FOR UPDATE
), dropped AS (
    DELETE FROM viewer.held AS h USING page AS p WHERE h.epoch = p.epoch AND h.vod_id = p.vod_id RETURNING h.views
), recorded AS (
    INSERT INTO viewer.held_decision AS d (epoch, decision, vods, views)
    SELECT %(epoch)s, 'drop', count(*), sum(views) FROM dropped HAVING count(*) > 0
    ON CONFLICT (epoch, decision) DO UPDATE SET
        vods = d.vods + excluded.vods, views = d.views + excluded.views, decided_at = excluded.decided_at
)
SELECT count(*), coalesce(sum(views), 0) FROM dropped

-- name: held_by_ledger
-- The views that flushes have held, also those that retention has deleted; and where these views are: held, or decided.
SELECT
    (SELECT coalesce(sum(views), 0) FROM viewer.flush WHERE mode = 'hold')
        + (SELECT coalesce(sum(views), 0) FROM viewer.pruned_flushes WHERE mode = 'hold'),
    (SELECT coalesce(sum(views), 0) FROM viewer.held) + (SELECT coalesce(sum(views), 0) FROM viewer.held_decision)
