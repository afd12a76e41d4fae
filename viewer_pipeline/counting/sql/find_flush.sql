-- Whether the flush that this run called flush_id was committed (rule R8).
SELECT EXISTS (SELECT FROM viewer.flush WHERE flush_id = %(flush_id)s)
