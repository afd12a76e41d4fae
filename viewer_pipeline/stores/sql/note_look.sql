-- Note up to which id this look at parked views came; '' to begin at the first again.
UPDATE viewer.parked_look SET after = %(after)s WHERE after <> %(after)s
