"""`viewer-pipeline docs`: its topics, its list, its errors, and its pages on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from viewer_pipeline.cli.docs import read_pages
from viewer_pipeline.cli.main import main
from viewer_pipeline_tests.support.waiting import ENOUGH

DOCS = Path(__file__).parents[2] / "docs"
COMMAND = [sys.executable, "-m", "viewer_pipeline.cli", "docs"]


def test_each_page_is_a_topic() -> None:
    """Under the name of its file, which no other page has; `adr/index.md` is `adr`."""
    pages = read_pages()
    assert sorted(pages.values()) == sorted(DOCS.rglob("*.md"))
    assert pages["clones"] == DOCS / "how-to/clones.md"
    assert pages["adr"] == DOCS / "adr/index.md"
    assert pages["index"] == DOCS / "index.md"


@pytest.mark.parametrize("topic", ["clones", "clones.md", "how-to/clones", "docs/how-to/clones.md#adopt"])
def test_topic_may_be_a_path(topic: str) -> None:
    """Pages link to each other by path, and each is printed as it is if stdout is no terminal."""
    result = CliRunner().invoke(main, ["docs", topic])
    assert (result.exit_code, result.stdout) == (0, (DOCS / "how-to/clones.md").read_text(encoding="utf-8"))


def test_list_of_pages() -> None:
    """Topic and title, without the single decisions, which are topics all the same."""
    lines = CliRunner().invoke(main, ["docs"]).stdout.splitlines()
    assert [line for line in lines if re.fullmatch("metrics +Metrics", line)]
    assert [line for line in lines if re.match(r"\d", line)] == []
    assert CliRunner().invoke(main, ["docs", "0018-warm-runs"]).exit_code == 0


@pytest.mark.parametrize("topic", ["clone", "", "../pyproject.toml", "/etc/passwd"])
def test_unknown_topic(topic: str) -> None:
    """The error lists the topics; no other file is read."""
    result = CliRunner().invoke(main, ["docs", topic])
    assert result.exit_code == 2
    assert f"Invalid value for 'TOPIC': there is no page {topic!r}. The pages are:\nadr, alerts," in result.stderr


def test_topics_complete() -> None:
    """The shell offers the topics that begin with what was typed."""
    completed = ShellComplete(main, {}, "viewer-pipeline", "").get_completions(["docs"], "red")
    assert [item.value for item in completed] == ["redis-cluster", "redis-durability", "redis-emptied"]


def test_page_on_a_terminal(tmp_path: Path) -> None:
    """Formatted, through the pager."""
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho from the pager\ncat\n")
    pager.chmod(0o700)
    terminal, end = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "PAGER": str(pager), "TERM": "xterm", "COLUMNS": "60"}
    process = subprocess.Popen([*COMMAND, "glossary"], stdin=end, stdout=end, stderr=end, env=environment)
    os.close(end)
    output = bytearray()
    with suppress(OSError):  # how a terminal of Linux ends
        while read := os.read(terminal, 65536):
            output += read
    os.close(terminal)
    assert process.wait(ENOUGH) == 0
    text = output.decode()
    assert text.startswith("from the pager")
    assert "Glossary" in text
    assert "| --- |" not in text
