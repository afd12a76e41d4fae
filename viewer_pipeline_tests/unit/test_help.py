"""`--help` in a terminal of 80 columns: sections, whole sentences, readable names of values."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from viewer_pipeline.cli.main import SECTIONS, main

COLUMNS = 80
NAMES_OF_TYPES = re.compile(r"\b(INTEGER|FLOAT|TEXT|RANGE|PATH|FILENAME|BOOLEAN)\b|%Y|\[\[")


def groups(group: click.Group, *words: str) -> Iterator[tuple[tuple[str, ...], click.Group]]:
    """Yield each group with the words that lead to it."""
    yield words, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from groups(command, *words, name)


GROUPS = dict(groups(main))
PAGES = [*GROUPS, *((*words, name) for words, group in GROUPS.items() for name in group.commands)]


def help_of(*words: str) -> str:
    """Return what `--help` prints in a terminal of 80 columns."""
    result = CliRunner().invoke(main, [*words, "--help"], terminal_width=COLUMNS - 2, prog_name="viewer-pipeline")
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_a_page_fits(words: tuple[str, ...]) -> None:
    """No line is too long, and values are named for what they are, not for a type."""
    page = help_of(*words)
    assert [line for line in page.splitlines() if len(line) > COLUMNS] == []
    assert not NAMES_OF_TYPES.search(page), page


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_help_as_a_command(words: tuple[str, ...]) -> None:
    """`help COMMAND` shows the same as `COMMAND --help`."""
    result = CliRunner().invoke(main, ["help", *words], terminal_width=COLUMNS - 2, prog_name="viewer-pipeline")
    assert (result.exit_code, result.output) == (0, help_of(*words))


@pytest.mark.parametrize(
    ("words", "error"),
    [("help nothing", "No such command 'nothing'."), ("help status x", "viewer-pipeline status has no commands")],
)
def test_help_of_no_command(words: str, error: str) -> None:
    """A usage error."""
    result = CliRunner().invoke(main, words.split(), prog_name="viewer-pipeline")
    assert result.exit_code == 2
    assert f"Error: {error}" in result.output


def test_version() -> None:
    """By both options."""
    short, long = (CliRunner().invoke(main, [option], prog_name="viewer-pipeline") for option in ("-V", "--version"))
    assert short.output == long.output
    assert short.output.startswith("viewer-pipeline, version ")


@pytest.mark.parametrize("words", GROUPS, ids=" ".join)
def test_descriptions_are_not_truncated(words: tuple[str, ...]) -> None:
    """The first sentence of each command stands beside its name, on one line."""
    lines = help_of(*words).splitlines()
    for name, command in GROUPS[words].commands.items():
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.split(maxsplit=1)[1] == (command.help or "").splitlines()[0], line


def test_every_command_is_in_one_section() -> None:
    """In the order of `--help`, with its names in one column."""
    lines = help_of().splitlines()
    titles = [line.removesuffix(":") for line in lines if re.fullmatch(r"\S.*:", line) and line != "Options:"]
    assert titles == list(SECTIONS)
    in_sections = [command.name for commands in SECTIONS.values() for command in commands]
    assert sorted(map(str, in_sections)) == sorted(main.commands)
    columns = [re.match(rf"  ({'|'.join(main.commands)}) +", line) for line in lines]
    assert {match.end() for match in columns if match} == {15}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("send", "Missing argument 'VOD_ID'. Expected the id of a VOD, such as vod_123."),
        ("backfill", "Missing argument 'FIRST'. Expected a day as 2026-11-28."),
        ("retire", "Missing argument 'PREFIX'. Expected the counter prefix of a pipeline, such as vod:views:"),
        ("held maybe", "Invalid value for 'DECISION': 'maybe' is not one of 'count', 'drop'."),
    ],
)
def test_errors_state_what_is_expected(words: str, error: str) -> None:
    """Also where an argument is missing. The name is that of the usage."""
    result = CliRunner().invoke(main, words.split())
    assert result.exit_code == 2
    assert f"Error: {error}\n" in result.output


@pytest.mark.parametrize(
    ("words", "name"),
    [("acknowledge theft", "KIND"), ("healthcheck cook", "ROLE"), ("backfill today", "FIRST"), ("send ''", "VOD_ID"),
     ("backfill 2026-01-01 today", "LAST"), ("docs nothing", "TOPIC")],
)  # fmt: skip
def test_errors_name_the_argument(words: str, name: str) -> None:
    """Without the brackets and dots of the usage."""
    result = CliRunner().invoke(main, shlex.split(words))
    assert result.exit_code == 2
    assert f"Error: Invalid value for '{name}': " in result.output
