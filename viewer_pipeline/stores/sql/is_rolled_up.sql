-- Whether a day was ever added up.
SELECT EXISTS (SELECT FROM viewer.daily_rollup WHERE day = %(day)s)
