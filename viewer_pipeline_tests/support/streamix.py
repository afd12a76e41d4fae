"""Tables as Prisma creates them for Streamix, and a world whose ledger counts into them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from viewer_pipeline.flush.ledger import Ledger
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
    """A world whose ledger adds views to a table of the user."""

    def __init__(self, stores: Stores, names: TargetNames = VOD) -> None:
        super().__init__(Stores(stores.redis, Ledger(stores.ledger.url, names)))
        self.names = names

    def make_streamix(self) -> None:
        """Create the tables of Streamix."""
        self.execute(SCHEMA)

    def add_vods(self, *vod_ids: str, count: int = 0) -> None:
        """Insert VODs."""
        self.execute(NEW_VODS, count, list(vod_ids))

    def target(self) -> dict[str, Any]:
        """Return the counts of the user's table by id as text, without zeros and nulls."""
        id_column, count = self.names.id_column, self.names.count_column
        rows = self.rows(f'SELECT "{id_column}"::text, "{count}" FROM {self.names.table} WHERE "{count}" <> 0')
        return dict(rows)

    def assert_target_is(self, expected: dict[str, int]) -> None:
        """Assert that target and totals have these counts, and that other views are parked or pending."""
        assert self.target() == expected
        assert self.totals() == expected
        self.assert_conserved()

    def rest(self, counted: dict[str, int]) -> dict[str, int]:
        """Return the views that were sent in addition to these counts."""
        return dict(self.sent - Counter(counted))


MakeWorld = Callable[..., TargetWorld]  # of a table that a statement creates


def reasons(world: TargetWorld) -> dict[str, str]:
    """Return the reasons of parked views, by VOD."""
    return dict(world.rows("SELECT vod_id, reason FROM viewer.parked"))
