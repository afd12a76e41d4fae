"""Check results and tables of the core as Dagster's UI shows them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from viewer_pipeline.checks import CheckResult


def to_asset_check_result(asset: str, result: CheckResult) -> dg.AssetCheckResult:
    """Return the result with its message as description, and its details, such as failing rows, as metadata."""
    metadata = {name: dg.MetadataValue.json(value) for name, value in result.details.items()}
    return dg.AssetCheckResult(
        passed=result.passed, asset_key=asset, check_name=result.name, description=result.message, metadata=metadata
    )


def to_table_metadata(columns: Mapping[str, str], rows: Iterable[tuple[Any, ...]]) -> dg.TableMetadataValue:
    """Return a table with these columns (name -> type)."""
    records = [dg.TableRecord(dict(zip(columns, row, strict=True))) for row in rows]
    return dg.MetadataValue.table(records, dg.TableSchema([dg.TableColumn(*column) for column in columns.items()]))


def round_seconds(seconds: float) -> float:
    """Return seconds as the UI shows them, in thousandths."""
    return round(seconds, 3)


def round_percent(share: float) -> float:
    """Return a share as percentage with one decimal place, rounded down: 100 is all of it."""
    return math.floor(1000 * share) / 10
