-- Forget the days of a window, to add them up anew.
DELETE FROM viewer.daily_views WHERE day >= %(start)s AND day < %(end)s
