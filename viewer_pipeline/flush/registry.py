"""The registry: the pipelines of one Redis. A pipeline is entered before it reads anything."""

from __future__ import annotations

from contextlib import closing
from typing import Any, NamedTuple

import redis

from viewer_pipeline.errors import PipelineRefused, ViewerPipelineError
from viewer_pipeline.flush.identity import LedgerIdentity
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.pipeline_refusal import refusal
from viewer_pipeline.redis_names import REGISTRY_KEY, RedisNames
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import Script, as_text, connect, redis_errors

START_SECONDS = 3.0  # time-out at the start of a process

REGISTER = Script.load("flush/claim", "flush/register")


class Pipeline(NamedTuple):
    """One entry: counter prefix, ledger, and the place of that ledger's database."""

    prefix: str
    ledger: str
    place: str


def require_pipeline(settings: Settings) -> None:
    """Enter the pipeline of the settings in the registry of its Redis. Raises PipelineRefused.

    If a server is unreachable now, every run and the worker try again; /health reports the error.
    """
    ledger, url = Ledger.of(settings), settings.require_redis_url()
    with closing(connect(url, seconds=START_SECONDS, retries=0)) as client:
        try:
            with ledger.connect(any_server=True) as connection:
                identity = ledger.identity(connection)
            register(client, url, settings.counter_prefix, identity)
        except PipelineRefused:
            raise
        except ViewerPipelineError:
            return


def register(client: redis.Redis, url: str, prefix: str, identity: LedgerIdentity) -> str:
    """Enter a pipeline in the registry; return its ledger as Redis stores it. Raises PipelineRefused."""
    names = RedisNames.of(prefix)
    with redis_errors(url):
        outcome, *rest = REGISTER.run(client, names.claimed_keys(), [prefix, identity.key, identity.place])
    if outcome < 0:
        raise refusal(prefix, identity, *rest)
    return bytes(rest[0]).decode()


def known_pipelines(client: redis.Redis, url: str) -> list[Pipeline]:
    """Return all entries, by prefix."""
    with redis_errors(url):
        prefixes: Any = client.hkeys(REGISTRY_KEY)
        values: Any = client.hmget(REGISTRY_KEY, prefixes) if prefixes else []
    pipelines = []
    for prefix, value in zip(prefixes, values, strict=True):
        ledger, _, place = as_text(value).partition(" ")
        pipelines.append(Pipeline(as_text(prefix), ledger, place))
    return sorted(pipelines)
