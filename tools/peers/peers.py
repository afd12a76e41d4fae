"""What is compared: a name, a program, and how it wants its views and gives its totals."""

from __future__ import annotations

from dataclasses import dataclass

from tools.peers.programs.servers_and_totals import VOD_FIELD

VOD_TOTALS = "SELECT vod_id, views FROM vod_totals WHERE views <> 0"
OURS = "viewer_pipeline_flush"


@dataclass(frozen=True)
class Peer:
    """A program in tools/peers/programs. `totals`: a query of the ids and views that it has written."""

    name: str  # of its module
    title: str
    packages: tuple[str, ...] = ()  # whose versions are shown
    folder: str = "tools.peers.programs"
    reads_stream: bool = False  # entries of a stream instead of counters
    totals: str = VOD_TOTALS
    totals_with_foreign_key: str = VOD_TOTALS

    @property
    def module(self) -> str:
        """The module to run."""
        return f"{self.folder}.{self.name}"

    @property
    def is_ours(self) -> bool:
        """Whether it runs in the project's own virtual environment."""
        return self.name == OURS


PEERS = (
    Peer(
        OURS,
        "Viewer Pipeline, flush and verify",
        totals="SELECT vod_id, view_count FROM viewer.vod_view_counts",
        totals_with_foreign_key="SELECT id, views FROM vod WHERE views <> 0",
    ),
    Peer("dbos_workflow", "DBOS", ("dbos",)),
    Peer("celery_getdel", "Celery, GETDEL then upsert", ("celery",)),
    Peer("rename_flusher", "RENAME, upsert, delete"),
    Peer("node_algorithm", "KEYS, transaction, DEL (Node worker)"),
    Peer("bytewax_stream", "bytewax, stream", ("bytewax", "bytewax-redis"), reads_stream=True),
    Peer(
        "community_components_stream",
        "Redis stream to database",
        ("dagster-community-components",),
        reads_stream=True,
        totals=f"SELECT {VOD_FIELD}, count(*) FROM view_events GROUP BY 1",
        totals_with_foreign_key=f"SELECT id, count(*) FROM view_events JOIN vod ON id = {VOD_FIELD} GROUP BY 1",
    ),
)
