"""The SQL of `sql/`, by name: one statement a file, headed by what it does."""

from __future__ import annotations

from importlib import resources

SQL: dict[str, str] = {
    file.name.removesuffix(".sql"): file.read_text(encoding="utf-8")
    for file in resources.files("viewer_pipeline.stores").joinpath("sql").iterdir()
    if file.name.endswith(".sql")
}
