-- The last of some parked ids after an id; NULL where there are fewer, so that the next look begins at the first again.
SELECT max(vod_id) FILTER (WHERE number = %(some)s)
FROM (
    SELECT vod_id, row_number() OVER (ORDER BY vod_id) AS number
    FROM (SELECT vod_id FROM viewer.parked WHERE vod_id > %(after)s ORDER BY vod_id LIMIT %(some)s) AS p
) AS page
