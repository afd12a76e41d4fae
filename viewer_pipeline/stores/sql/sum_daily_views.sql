-- The views of each day of a window, from the rows themselves.
SELECT day, sum(views) FROM viewer.daily_views WHERE day >= %(start)s AND day < %(end)s GROUP BY day
