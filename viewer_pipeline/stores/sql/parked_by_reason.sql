-- Parked views by reason, most views first.
SELECT reason, count(*), sum(views), min(first_seen) FROM viewer.parked GROUP BY reason ORDER BY sum(views) DESC, reason
