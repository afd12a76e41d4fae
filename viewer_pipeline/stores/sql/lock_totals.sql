-- Let nobody else change a total until this transaction ends: neither a flush, nor who counts parked views.
LOCK TABLE viewer.vod_view_counts IN SHARE ROW EXCLUSIVE MODE
