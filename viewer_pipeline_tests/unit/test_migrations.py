"""Migrations only add, so that programs of the previous version work while the next one is rolled out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from viewer_pipeline import migrations

# The version before must be stopped for these, and refuses to run after them.
STOPPED = ("m0009_version_0_2_0", "m0010_history_timezone")
VERSIONS = sorted((Path(migrations.__file__).parent / "versions").glob("m[0-9]*.py"))
ROLLING = [version for version in VERSIONS if version.stem not in STOPPED]
TAKES_AWAY = re.compile(r"\b(DROP|RENAME|ALTER COLUMN|SET NOT NULL|TRUNCATE|DELETE FROM|REVOKE)\b")
NEEDED = re.compile(r"ADD COLUMN[^;\"]*NOT NULL(?![^;\"]*DEFAULT)")  # a program that does not know it inserts none


@pytest.mark.parametrize("version", ROLLING, ids=lambda version: version.stem)
def test_a_migration_only_adds(version: Path) -> None:
    """What stands before `downgrade` takes nothing away that the version before it uses (docs/operations.md)."""
    upgrade, downgrade, _ = version.read_text(encoding="utf-8").partition("def downgrade")
    assert downgrade
    assert TAKES_AWAY.findall(upgrade) == []
    assert NEEDED.findall(upgrade) == []
