-- Forget some rejected input of long ago; not what was parked and given up, which explains a total.
DELETE FROM viewer.rejected WHERE digest IN (
    SELECT digest FROM viewer.rejected
    WHERE seen_at < now() - make_interval(days => %(days)s) AND source <> 'parked'
    LIMIT %(some)s
)
