"""Packing commands: the same bytes as redis-py."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.connection import HiredisRespSerializer

from viewer_pipeline.stores.command_packer import CommandPacker


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "a b"),
        ("SCRIPT LOAD", "return 1"),
        (b"SCRIPT LOAD", b"return 1"),
        ("PUBLISH", "chännel", b"\x00\xff\r\n"),
        ("ZADD", "changed", -3, 1.5, ""),
    ],
)
def test_a_command_is_packed_as_redis_py_does(command: tuple[str | bytes | float, ...]) -> None:
    """Blanks separate words of the name only."""
    serializer: Any = HiredisRespSerializer()
    assert CommandPacker().pack(*command) == serializer.pack(*command)


def test_a_value_of_another_type_is_named_with_its_command() -> None:
    """It raises redis-py's error, which is reported as ours."""
    with pytest.raises(redis.DataError, match="SET: "):
        CommandPacker().pack("SET", "key", None)  # type: ignore[arg-type] # the mistake
