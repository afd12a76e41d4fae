"""Commands in another terminal than `up`, whose environment and directory are others."""

from __future__ import annotations

import json
from pathlib import Path

from viewer_pipeline_tests.support.stack import up, variables
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.warm import run

OF_UP = {"PUBSUB_MODE": "announce", "COUNTER_PREFIX": "shop:", "HISTORY_TIMEZONE": "Asia/Tokyo"}


def test_commands_use_the_settings_of_the_running_up(tmp_path: Path) -> None:
    """What they send is counted under its prefix, and times are in its zone; a value of their own is a warning."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with up(variables(tmp_path, **OF_UP)) as stack:
        stack.wait_for_ui()
        other = {**variables(elsewhere), "VIEWER_HOME": str(stack.home)}
        sent = run(other, "send", "vod_1", "--count", "3")
        assert (sent.stdout, sent.stderr) == ("sent 3 views of vod_1 by both, received by 1 subscriber\n", "")

        def persisted() -> int:
            return int(json.loads(run(other, "status", "--json").stdout)["persisted"])

        wait_until(lambda: persisted() == 3, 120, "the views in PostgreSQL")
        status = run(other, "status")
        assert " taken at (Asia/Tokyo) " in status.stdout
        assert status.stderr == ""
        status = run({**other, "HISTORY_TIMEZONE": "UTC"}, "status")
        assert " taken at (UTC) " in status.stdout
        assert status.stderr == (
            "setting_differs_from_running_up variable=HISTORY_TIMEZONE value=UTC value_of_running_up=Asia/Tokyo\n"
        )
        run(other, "send", "vod_1", "--how", "incr")
        flushed = run(other, "flush")
        assert (flushed.returncode, persisted()) == (0, 4)
        stack.stop()
    assert stack.log.read_text().splitlines()[-1] == "stopped"
