"""What fault tests tell people."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from viewer_pipeline_tests.conftest import TOLD


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Leave a line that the end of the session shows, also where the test passes: numbers that guarantees name."""

    def say(line: str) -> None:
        record_property(TOLD, line)

    return say
