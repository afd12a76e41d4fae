"""Importing this module imports what a run needs, but Dagster: a process that is forked afterwards imports nothing."""

import gc
import os
from importlib import import_module

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy would start threads when it is imported: a fork is not safe then
for name in ("encodings.idna", "viewer_pipeline.bench.complete_run", "viewer_pipeline.cli.main"):
    import_module(name)
gc.collect()
gc.freeze()  # the collector would write to the pages that both share
