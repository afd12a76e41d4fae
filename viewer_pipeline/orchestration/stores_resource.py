"""Both servers as the steps of a flush get them: opened once for a run, closed at its end."""

import dagster as dg

from viewer_pipeline.flush.stores import Stores

StoresResource = dg.ResourceParam[Stores]

stores_resource = dg.ResourceDefinition(
    lambda context: Stores.open(context.resources.settings),
    required_resource_keys={"settings", "traces"},
    description="Redis and PostgreSQL, over connections that are kept from the first step of a run to the last.",
)
