-- How many rejects are recorded, by source and reason.
SELECT source, reason, count(*) FROM viewer.rejected GROUP BY source, reason ORDER BY source, reason
