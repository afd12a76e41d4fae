"""`viewer-pipeline adopt` and `retire`."""

from __future__ import annotations

from viewer_pipeline.errors import SettingsError
from viewer_pipeline.flush import adoption
from viewer_pipeline.flush.adoption import Adoption, How
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect


def run_adopt(settings: Settings, how: How) -> Adoption:
    """Give the counters of the settings' prefix to the settings' database. Raises CannotAdopt."""
    url = settings.require_redis_url()
    with connect(url) as client:
        stores = Stores(RedisStore(client, url, settings.counter_prefix), Ledger(settings.require_database_url()))
        return adoption.adopt(stores, how)


def run_retire(settings: Settings, prefix: str, *, keep_counters: bool) -> bool:
    """Forget the pipeline with this prefix; return whether it was known. Raises CannotAdopt, SettingsError."""
    if not prefix:
        raise SettingsError("PREFIX='': expected the counter prefix of a pipeline")
    url = settings.require_redis_url()
    ledger = Ledger(settings.require_database_url()) if keep_counters else None
    with connect(url) as client:
        return adoption.retire(client, url, prefix, settled_by=ledger)
