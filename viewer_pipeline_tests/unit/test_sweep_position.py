"""The position of a sweep: what is stored, what is refused, and the share of the keys that it stands for."""

from __future__ import annotations

import pytest

from viewer_pipeline.flush.sweep_position import SweepPart, SweepPosition

POSITION = SweepPosition(5, 1_764_345_600_123, "a1b2", "epoch", "id/7/16384", b"17 took over; may have missed some")


@pytest.mark.parametrize("request_", [b"", POSITION.request, b"1 a \xff \n line"])
def test_a_position_is_read_as_it_was_stored(request_: bytes) -> None:
    """With and without a request, whatever its reason says."""
    position = POSITION._replace(request=request_)
    assert SweepPosition.parse(position.encode()) == position


IN_A_CLUSTER = POSITION._replace(server="cluster/3/0123abcd")


@pytest.mark.parametrize("cursor", [5, 1 << 64, (2 << 64) + 2**64 - 1])
def test_a_position_in_a_cluster_has_the_number_of_the_node(cursor: int) -> None:
    """Above the 64 bits of the cursor of that node."""
    position = IN_A_CLUSTER._replace(cursor=cursor)
    assert SweepPosition.parse(position.encode()) == position
    assert position.share == pytest.approx((cursor >> 64) / 3 + POSITION._replace(cursor=cursor % 2**64).share / 3)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        b"-1 5 a b c ",
        b"0 5 a b c ",  # a pass that has not begun is not stored
        b"18446744073709551616 5 a b c ",
        IN_A_CLUSTER._replace(cursor=3 << 64).encode(),  # of three nodes the last one has number 2
        b"5 999999999999999 a b c ",
        b"5 5 a b",
        b"\xff\xfe 5 a b c ",
        POSITION.encode()[:20],
    ],
)
def test_anything_else_is_no_position(raw: bytes) -> None:
    """A sweep begins again there."""
    assert SweepPosition.parse(raw) is None


def test_a_position_is_of_one_server_epoch_and_ledger() -> None:
    """The reason is in the notes of the run that begins again."""
    assert POSITION.invalid_reason(POSITION._replace(cursor=0, began_ms=1, request=b"")) == ""
    assert "restarted" in POSITION.invalid_reason(POSITION._replace(server="c3"))
    assert "restarted" in POSITION.invalid_reason(POSITION._replace(server=""))
    assert "emptied" in POSITION.invalid_reason(POSITION._replace(epoch="another"))
    incomplete = SweepPart(b"", POSITION, POSITION._replace(cursor=9)).incomplete()
    assert incomplete.end.invalid_reason(POSITION._replace(hold="new")) == ""  # it ends nothing, whatever is held now
    assert (incomplete.begin.request, incomplete.end.request) == (b"", b"")
    assert "another ledger" in POSITION.invalid_reason(POSITION._replace(ledger="other/7/16384"))


@pytest.mark.parametrize(("cursor", "share"), [(0, 0), (2**63, 2**-64), (1, 0.5), (2, 0.25), (3, 0.75), (2**64 - 1, 1)])
def test_the_share_is_the_cursor_with_its_bits_reversed(cursor: int, share: float) -> None:
    """As SCAN increments it. A real server: integration/test_bounded_runs.py."""
    assert POSITION._replace(cursor=cursor).share == pytest.approx(share)
