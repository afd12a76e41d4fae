"""The output of `grants`: names quoted exactly, no password, only rights that the settings need."""

from __future__ import annotations

import re

import pytest

from viewer_pipeline.cli.grants.acl import acl_line
from viewer_pipeline.cli.grants.role_grants import Grants, build_grants, render_sql_and_redis_acl
from viewer_pipeline.layout import Layout
from viewer_pipeline.settings import Settings
from viewer_pipeline.streams import MAX_PARTS, MAX_STREAM, Stream
from viewer_pipeline.target.table import TargetNames

URL = "postgresql://me:s3cret@host/my%20db"


def of(role: str = "narrow", target: TargetNames | None = None, **settings: object) -> Grants:
    """Return the rights needed under these settings."""
    urls = {"database_url": URL, "redis_url": "redis://:s3cret@host/0"}
    return build_grants(Settings().copy_unvalidated(**urls | settings), role, target)


def test_names_are_quoted_exactly() -> None:
    """Those of the role, the database, the table and its columns."""
    grants = of('Ro"le', TargetNames.parse('"my ""odd"" schema"."a.table"', "Id", '"view count"'))
    assert 'GRANT CONNECT ON DATABASE "my db" TO "Ro""le";' in grants.sql
    assert grants.sql[-2:] == [
        'GRANT USAGE ON SCHEMA "my ""odd"" schema" TO "Ro""le";',
        'GRANT SELECT ("Id", "view count"), UPDATE ("view count") ON "my ""odd"" schema"."a.table" TO "Ro""le";',
    ]
    assert grants.redis.startswith('ACL SETUSER "Ro\\"le" on ')


def test_output_has_no_password() -> None:
    """There is a place for one, in which nothing passes for a password."""
    text = render_sql_and_redis_acl(of())
    assert "s3cret" not in text
    assert "LOGIN PASSWORD <PASSWORD>;" in text
    assert " #<SHA-256> " in text


def test_a_table_without_schema() -> None:
    """It is taken to be in public, with a note."""
    grants = of(target=TargetNames.parse("Vod", "id", "viewCount"))
    assert 'ON "public"."Vod" TO' in grants.sql[-1]
    assert [note for note in grants.notes if "taken to be public" in note]
    assert of(target=TargetNames.parse("shop.Vod", "id", "viewCount")).notes == []


def test_the_schema_of_prismas_url() -> None:
    """It is that of the user's tables."""
    grants = of(target=TargetNames.parse("Vod", "id", "viewCount"), database_url=f"{URL}?schema=shop")
    assert 'ON "shop"."Vod" TO' in grants.sql[-1]
    assert [note for note in grants.notes if "taken to be shop" in note]


def test_dagsters_storage_elsewhere() -> None:
    """Its lines are for another database."""
    assert [line for line in of().sql if "SCHEMA dagster" in line]
    grants = of(dagster_database_url="postgresql://host/dagster")
    assert [line for line in grants.sql if "SCHEMA dagster" in line] == []
    assert grants.notes == ["DAGSTER_DATABASE_URL is set: its role needs USAGE and CREATE on its schema there"]


def test_a_database_that_is_not_known() -> None:
    """Its line is left out, with a note."""
    grants = build_grants(Settings(), "narrow", None)
    assert [line for line in grants.sql if "DATABASE" in line] == []
    assert "DATABASE_URL is not set, so GRANT CONNECT is left out" in grants.notes
    nameless = of(database_url="postgresql://host/")
    assert nameless.notes == ["DATABASE_URL names no database, so GRANT CONNECT is left out"]


def test_commands_follow_the_settings() -> None:
    """Waiting and choosing a database are allowed where they are done."""
    plain = set(of().redis.split())
    assert not {"+wait", "+waitaof", "+select", "+config", "+keys"} & plain
    waits = Settings(redis_url="redis://host/3", redis_wait_replicas=1, redis_wait_aof=1)
    assert set(acl_line("narrow", waits).split()) - plain == {"+wait", "+waitaof", "+select"}


def test_standbys_are_visible_where_flushes_wait_for_them() -> None:
    """That takes a right of the whole server, which the owner of a database may be unable to grant."""
    plain, waits = (
        build_grants(Settings(), "narrow", None),
        build_grants(Settings(postgres_wait_standbys=1), "narrow", None),
    )
    assert set(waits.sql) - set(plain.sql) == {'GRANT pg_read_all_stats TO "narrow";'}
    assert "ADMIN OPTION" in (set(waits.notes) - set(plain.notes)).pop()


def test_keys_and_channels_follow_the_settings() -> None:
    """Taken literally, whatever characters they have; an ACL has no blanks, so any character stands for one."""
    line = acl_line("narrow", Settings(counter_prefix="my [views]*:", pubsub_channel="in?", totals_channel="out"))
    words = line.split(" ")
    assert [word for word in words if word.startswith("~") and "@" not in word] == [
        r"~my?\[views\]\*:*",
        r"~viewer:changed:my?\[views\]\*:",
        r"~viewer:settled:my?\[views\]\*:",
        r"~viewer:subscriber:my?\[views\]\*:",
        "~viewer:pipelines",
        "~viewer:settled",
        "~viewer:subscriber",
    ]
    assert [word for word in words if word.startswith("&")] == [
        r"&in\?",
        r"&viewer:counting:in\?",
        "&out",
        r"&viewer:cuts:my?\[views\]\*::*",
    ]


def test_a_cluster() -> None:
    """Its keys have hash tags, each shard has a marker, and the lines are for each node."""
    grants = of(redis_url="redis+cluster://:s3cret@one:6379,two:6379")
    words = grants.redis.split(" ")
    assert [word for word in words if word.startswith("~") and "@" not in word] == [
        "~vod:views:*",
        "~viewer:changed:{viewer}",
        "~viewer:settled:{viewer}",
        "~viewer:subscriber:{viewer}",
        "~viewer:pipelines:{viewer}",
        "~viewer:settled:{*",
    ]
    commands = {word for word in words if word.startswith("+")} - set(of().redis.split(" "))
    of_cluster = {f"+cluster|{name}" for name in ("info", "myid", "nodes", "slots")}
    assert commands == {"+asking", "+hgetall", "+zscore", *of_cluster}
    assert "redis-cli of each node\n" in render_sql_and_redis_acl(grants)
    shop = acl_line("narrow", Settings(redis_url="redis+cluster://one", counter_prefix="shop{1}:"))
    assert "~viewer:settled:shop%7B1%7D::{*" in shop.split(" ")


@pytest.mark.parametrize("url", ["redis://one", "redis+cluster://one"])
@pytest.mark.parametrize("prefix", ["vod:views:", "shop{1}:"])
def test_keys_of_streams(url: str, prefix: str) -> None:
    """Whatever FLUSH_STREAMS is and was; keys of streams of other pipelines match no pattern."""
    words = acl_line("narrow", Settings(redis_url=url, counter_prefix=prefix)).split(" ")
    patterns = [re.compile(re.escape(word[1:]).replace(r"\[0\-9\]", "[0-9]").replace(r"\*", ".*")) for word in words]
    streams = [Stream(2, 0, 2), Stream(MAX_STREAM, MAX_PARTS - 1, MAX_PARTS), Stream(30, 3, 12), Stream(3)]

    def match(key: str) -> bool:
        return any(pattern.fullmatch(key) for word, pattern in zip(words, patterns, strict=True) if word[0] == "~")

    for stream in streams:
        ours, others = (Layout.of(url, each, stream) for each in (prefix, "other:"))
        keys = [ours.names.marker, ours.names.changed, *(ours.marker_key(7) for _ in range(ours.cluster))]
        assert [key for key in keys if not match(key)] == []
        assert [key for key in (others.names.marker, others.names.changed) if match(key)] == []
