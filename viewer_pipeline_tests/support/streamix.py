"""Tables as Prisma makes them for Streamix, from a description of their columns; and a world that counts into them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.report import RunReport
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.target.table import TargetNames
from viewer_pipeline_tests.support.world import World

SCHEMA = """
CREATE TABLE public."Channel" ("id" text PRIMARY KEY);
CREATE TABLE public."Vod" (
    "id" text PRIMARY KEY,
    "channelId" text NOT NULL REFERENCES public."Channel" ("id"),
    "title" text NOT NULL,
    "s3Bucket" text NOT NULL,
    "s3Region" text NOT NULL,
    "s3Key" text NOT NULL,
    "viewCount" integer NOT NULL DEFAULT 0
);
CREATE INDEX "Vod_channelId_idx" ON public."Vod" ("channelId");
INSERT INTO public."Channel" VALUES ('channel');
"""
NEW_VODS = """
INSERT INTO public."Vod" ("id", "channelId", "title", "s3Bucket", "s3Region", "s3Key", "viewCount")
SELECT id, 'channel', 'Title of ' || id, 'vods', 'eu-central-1', 'channel/' || id || '/index.m3u8', %s
FROM unnest(%s::text[]) AS id
"""
VOD = TargetNames.parse("public.Vod", "id", "viewCount")


class TargetWorld(World):
    """The world of a ledger that adds to a table of the user's."""

    def __init__(self, stores: Stores, names: TargetNames = VOD) -> None:
        super().__init__(Stores(stores.redis, Ledger(stores.ledger.url, names)))
        self.names = names

    def make_streamix(self) -> None:
        """Make the tables of Streamix."""
        self.execute(SCHEMA)

    def add_vods(self, *vod_ids: str, count: int = 0) -> None:
        """Make VODs."""
        self.execute(NEW_VODS, count, list(vod_ids))

    def target(self) -> dict[str, Any]:
        """Return the counts of the user's table, by id as text; those that are zero or null left out."""
        id_column, count = self.names.id_column, self.names.count_column
        rows = self.rows(f'SELECT "{id_column}"::text, "{count}" FROM {self.names.table} WHERE "{count}" <> 0')
        return dict(rows)

    def assert_target_is(self, expected: dict[str, int]) -> None:
        """The user's table and the totals have these counts; the rest of what was sent is parked or pending."""
        assert self.target() == expected
        assert self.totals() == expected
        self.assert_conserved()

    def in_thread(self, **options: Any) -> Future[RunReport]:
        """Begin a flush on another thread."""
        pool = ThreadPoolExecutor(1)
        try:
            return pool.submit(self.flush, **options)
        finally:
            pool.shutdown(wait=False)

    def rest(self, counted: dict[str, int]) -> dict[str, int]:
        """Return what was sent beside these counts."""
        return dict(self.sent - Counter(counted))


MakeWorld = Callable[..., TargetWorld]  # of a table made by a statement


def reasons(world: TargetWorld) -> dict[str, str]:
    """Return why views are parked, by VOD."""
    return dict(world.rows("SELECT vod_id, reason FROM viewer.parked"))
