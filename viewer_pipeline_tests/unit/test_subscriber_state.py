"""The hash `viewer:subscriber` as one typed value."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from viewer_pipeline.errors import SubscriberStateUnreadable
from viewer_pipeline.ingest.subscriber_redis_hash import FIELDS, SubscriberState

SCRIPTS = ("ingest/lua/key_space", "ingest/lua/lease", "ingest/lua/cut", "ingest/lua/segment_part")


def values(**fields: bytes) -> list[bytes | None]:
    """Return what HMGET answers for a hash that holds these fields."""
    return [fields.get(name) for name in FIELDS]


def test_parse_reads_each_field() -> None:
    """Numbers as integers, the rest as text."""
    state = SubscriberState.parse(values(id=b"space", worker=b"host:7", expires=b"12", folded=b"3", sweep=b"1 reason"))
    assert state == SubscriberState(id="space", worker="host:7", expires=12, folded=3, sweep="1 reason")


def test_parse_of_a_missing_hash_is_the_default() -> None:
    """A Redis that was emptied holds none of the fields."""
    assert SubscriberState.parse(values()) == SubscriberState()


def test_parse_names_the_unreadable_field() -> None:
    """The error has the field and its value."""
    with pytest.raises(SubscriberStateUnreadable, match="folded = b'x' is not an integer"):
        SubscriberState.parse(values(folded=b"x"))


@pytest.mark.parametrize(("expires", "held"), [(b"1001", True), (b"1000", False)])
def test_is_held_until_the_lease_expires(expires: bytes, held: bool) -> None:
    """A lease that ends now is over."""
    assert SubscriberState.parse(values(expires=expires)).is_lease_held_by_any_worker(1000) == held


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_use_known_fields_only(script: str) -> None:
    """Each field that a script of ingest reads or writes is an attribute of the value."""
    source = resources.files("viewer_pipeline").joinpath(script + ".lua").read_text(encoding="utf-8")
    calls = re.findall(r"'(?:HSET|HMGET|HDEL|HGET)', KEYS\[1\],(.*?)\)\n", source, re.DOTALL)
    names = {name for call in calls for name in re.findall(r"'([a-z_]+)'", call)}
    assert names
    assert names <= set(FIELDS)
