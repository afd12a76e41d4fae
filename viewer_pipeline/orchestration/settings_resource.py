"""The settings as Dagster gets them: one resource for every run and tick.

The resource has no Dagster config, so the UI shows its description and no URL.
"""

import dagster as dg

from viewer_pipeline.settings import Settings
from viewer_pipeline.settings_of_running_up import load_settings_and_find_servers

LOADED = load_settings_and_find_servers()  # intervals, crons and partitions are fixed when the definitions load

SettingsResource = dg.ResourceParam[Settings]

settings_resource = dg.ResourceDefinition(
    lambda _: load_settings_and_find_servers(),
    description="All settings of Viewer Pipeline, read from the environment when a run or a tick starts.",
)
