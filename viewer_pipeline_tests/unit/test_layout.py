"""Where the keys of a pipeline are, as a cluster hashes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot as slot_of_redis_py

from viewer_pipeline.layout import HOME_SLOT, SINGLE_SHARD, Layout, key_slot, slot_of_shard
from viewer_pipeline.redis_names import DEFAULT_PREFIX

CLUSTER = "redis+cluster://host"
NAMES = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("{}"), max_size=12)


@given(NAMES)
def test_slots_are_those_of_redis_py(name: str) -> None:
    """Also of names with hash tags, and with halves of them."""
    assert key_slot(name.encode()) == slot_of_redis_py(name.encode())


@pytest.mark.parametrize("prefix", [DEFAULT_PREFIX, "{shop}:views:", "a}{b", "%7Bx"])
def test_the_marker_of_a_shard_is_in_its_slot(prefix: str) -> None:
    """Whatever the counter prefix, braces included; the markers of two shards differ."""
    layout = Layout.of(CLUSTER, prefix)
    keys = [layout.marker_key(shard) for shard in layout.shards]
    assert [key_slot(key.encode()) for key in keys] == [slot_of_shard(shard) for shard in layout.shards]
    assert len(set(keys)) == len(keys)


@given(NAMES)
def test_all_other_keys_are_in_one_slot(prefix: str) -> None:
    """So one script may use them together."""
    names = Layout.of(CLUSTER, prefix or DEFAULT_PREFIX).names
    keys = {*names.pipeline_keys, *names.registration_keys(), names.registry}
    assert {key_slot(key.encode()) for key in keys} == {HOME_SLOT}


def test_a_counter_is_in_the_shard_of_its_slot() -> None:
    """By its whole key: the id may have a hash tag. A single Redis is one shard, with the names that it always had."""
    layout = Layout.of(CLUSTER, DEFAULT_PREFIX)
    ids = ["vod1", "{vod1}a", "{vod1}b", ""]
    assert layout.shards_of_ids(ids) == [layout.shard_of(f"{DEFAULT_PREFIX}{vod_id}".encode()) for vod_id in ids]
    assert (
        layout.shard_of(b"vod:views:{vod1}a")
        == layout.shard_of(b"vod:views:{vod1}b")
        != layout.shard_of(b"vod:views:vod1")
    )
    single = Layout.of("redis://host", DEFAULT_PREFIX)
    assert (single.shard_of(b"vod:views:vod1"), single.marker_key(SINGLE_SHARD)) == (SINGLE_SHARD, "viewer:settled")
    assert single.names.registration_keys()[0] == "viewer:pipelines"
