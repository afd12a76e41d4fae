"""Numbers that PostgreSQL returns as numeric: sums of bigints are whole numbers in Python, however large."""

from __future__ import annotations

from decimal import Decimal

from viewer_pipeline_tests.support.world import World


def test_whole_numbers_are_ints_and_fractions_stay_exact(world: World) -> None:
    """A sum above bigint is an exact int; a number with decimal places stays a Decimal."""
    with world.stores.ledger.connect() as connection:
        row = connection.execute(
            "SELECT sum(n), 2.50, 'NaN'::numeric FROM unnest(%s::bigint[]) AS n", [[2**62, 2**62, 1]]
        )
        total, fraction, nothing = row.fetchone() or ()
    assert (total, type(total)) == (2**63 + 1, int)
    assert (fraction, type(fraction)) == (Decimal("2.50"), Decimal)
    assert nothing.is_nan()
