"""What a node of a Redis Cluster says of its own slots."""

from __future__ import annotations

from viewer_pipeline.stores.cluster_map import OwnSlots

OTHER = "b2 10.0.0.2:6379@16379,host slave,fail? a1 0 17 3 connected"
OWN = "a1 10.0.0.1:6379@16379 myself,master - 0 0 7 connected"


def test_own_slots() -> None:
    """Of the line of the node itself, whatever the others have; with its configuration epoch."""
    assert OwnSlots.parse(f"{OTHER}\n{OWN} 0-99 200\n") == OwnSlots(101, False, "a1 7 0-99 200")
    assert OwnSlots.parse(f"{OWN}\n{OTHER} 5-6\n") == OwnSlots(0, False, "a1 7")
    migrating = OwnSlots.parse(f"{OWN} 0-9 [5->-b2] [77-<-b2]\n")
    assert migrating == OwnSlots(10, True, "a1 7 0-9 [5->-b2] [77-<-b2]")


def test_no_line_of_its_own() -> None:
    """Some proxy replied."""
    assert OwnSlots.parse(f"{OTHER} 0-16383\n") is None
    assert OwnSlots.parse("") is None
