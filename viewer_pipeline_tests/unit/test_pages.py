"""Names in the pages exist: files, sections, commands with their options, variables, metrics, tests, make targets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from viewer_pipeline.cli.main import main as viewer_pipeline
from viewer_pipeline.monitoring.metric_families import METRIC_FAMILIES
from viewer_pipeline.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = sorted(ROOT.glob("docs/**/*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS]
MADE = ("reference/commands.md",)  # by --help, which has placeholders
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
NO_METRICS = {"viewer_pipeline", "viewer_pipeline_tests"}  # names that begin as metrics do
# Other variables that pages set: of tests, servers and shells.
OTHERS = {
    "TAG",  # of make release-check
    "LOCK",  # an argument of the build
    "IMAGE_LOCK",  # of docker-compose.yaml: that argument
    "COMPOSE_PROFILES",
    "DAGSTER_GRPC_TIMEOUT_SECONDS",
    "DAGSTER_HOME",
    "JOBS",
    "MATRIX",
    "PEERS",
    "NAME",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SERVICE_NAME",
    "PATH",
    "POSTGRES_PASSWORD",
    "PYTHON",
    "PYTHON_IMAGE",  # an argument of the build
    "REDIS_DIRECTORY",
    "SSL_CERT_FILE",
    "STATE_MACHINE_EXAMPLES",
    "TARGET_TABEL",
    "TESTS",
    "TEST_REDIS_SERVER",
    "VIEWER_TARGET_TABLE",
}
ids = [str(page.relative_to(ROOT)) for page in PAGES]
each_page = pytest.mark.parametrize("page", PAGES, ids=ids)


@cache
def text_of(page: Path) -> str:
    """Return the text of a page."""
    return page.read_text(encoding="utf-8")


@cache
def without_fences(page: Path) -> str:
    """Return the text of a page without its blocks of code."""
    return FENCE.sub("", text_of(page))


def anchors(page: Path) -> set[str]:
    """Return the anchors that both GitHub and MkDocs give the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", without_fences(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def lines_of_code(page: Path) -> Iterator[str]:
    """Yield the lines of shell blocks, and the code in backticks."""
    for language, block in FENCE.findall(text_of(page)):
        if language == "sh":
            yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", without_fences(page))


def words_of(line: str) -> list[str]:
    """Split a line of a shell, without its comment."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a piece of a line, such as a lone quote
        return line.split()


def calls_in(words: list[str]) -> Iterator[list[str]]:
    """Yield the words after each `viewer-pipeline` that is a command, not the name of a user, secret or directory."""
    for at, word in enumerate(words):
        first = all("=" in before for before in words[:at])
        if word.rpartition("/")[2] == "viewer-pipeline" and (
            first or not words[at + 1 : at + 2] or words[at + 1][0] != "-"
        ):
            yield words[at + 1 :]


def error_in(words: list[str]) -> str | None:
    """Return the error in the words after `viewer-pipeline`, None if they are right."""
    command: click.Command = viewer_pipeline
    for word in words:
        name = word.partition("=")[0]
        if word in ("|", ">", "&", "&&", ";"):
            break
        if name.startswith("-"):
            options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h", "--version"}
            if name not in options:
                return f"no option {name}"
        elif isinstance(command, click.Group) and word.islower():  # COMMAND and … stand for any
            if word not in command.commands:
                return f"no command {word}"
            command = command.commands[word]
    return None


@each_page
def test_links_have_targets(page: Path) -> None:
    """The file exists, and so does its section."""
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(page)):
        path, _, section = target.partition("#")
        if ":" in path:
            continue
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (section and section not in anchors(to)):
            wrong.append(target)
    assert wrong == []


def test_every_page_is_in_the_navigation() -> None:
    """mkdocs.yml names it; decisions have a list of their own."""
    named = re.findall(r"^ *- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    pages = [str(page.relative_to(ROOT / "docs")) for page in DOCS]
    assert sorted(named) == sorted(page for page in pages if not re.match(r"adr/\d", page))


@each_page
def test_commands_exist(page: Path) -> None:
    """And so do their options."""
    if str(page).endswith(MADE):
        return
    wrong = [
        f"{line}: {error}"
        for line in lines_of_code(page)
        for call in calls_in(words_of(line))
        if (error := error_in(call))
    ]
    assert wrong == []


@each_page
def test_variables_exist(page: Path) -> None:
    """A variable that is set in a shell, or named in backticks like a setting, is a setting."""
    settings = {name.upper() for name in Settings.model_fields}
    named: set[str] = set()
    for line in lines_of_code(page):
        named |= set(re.findall(r"(?<![\w-])([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)=", line))
    stems = {name.partition("_")[0] + "_" for name in settings}
    named |= {
        name
        for name in re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`", without_fences(page))
        if name.startswith(tuple(stems))
    }
    assert {name for name in named if not name.startswith("VIEWER_TEST_")} - settings - OTHERS == set()


@each_page
def test_metrics_exist(page: Path) -> None:
    """A name in backticks that looks like a metric is one."""
    named = set(re.findall(r"`(viewer_[a-z_]+)", text_of(page))) - NO_METRICS
    assert named - set(METRIC_FAMILIES) == set()


@each_page
def test_tests_exist(page: Path) -> None:
    """The test files that a page names."""
    named = set(
        re.findall(r"(?:viewer_pipeline_tests/)?(?:unit|integration|faults|acceptance)/test_\w+\.py", text_of(page))
    )
    missing = [
        name
        for name in named
        if not (ROOT / "viewer_pipeline_tests" / name.removeprefix("viewer_pipeline_tests/")).exists()
    ]
    assert missing == []


@each_page
def test_files_of_the_code_exist(page: Path) -> None:
    """Modules, scripts and queries that a page names in backticks; the changelog may name those of before."""
    if page.name == "CHANGELOG.md":
        return
    folders = ROOT, ROOT / "viewer_pipeline", ROOT / "viewer_pipeline_tests"
    named = set(re.findall(r"`((?:\w+/)+\w+\.(?:py|lua|sql))`", without_fences(page)))
    assert [name for name in sorted(named) if not any((folder / name).exists() for folder in folders)] == []


@each_page
def test_make_targets_exist(page: Path) -> None:
    """`make …` is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        word
        for line in lines_of_code(page)
        if line.strip().startswith("make ")
        for word in words_of(line)[1:2]
        if word.isalpha()
    }
    assert named - targets == set()


@each_page
def test_lists_are_rendered_as_lists(page: Path) -> None:
    """MkDocs needs a blank line before a list, and four spaces before a paragraph of an item."""
    wrong, before = [], ""
    item = re.compile(r"\s*([-*]|\d+\.) ")
    for line in without_fences(page).splitlines():
        if (
            re.match(r"(- |\* |1\. )", line)
            and before.strip()
            and not item.match(before)
            and not before.startswith(" ")
        ):
            wrong.append(line)
        if not before.strip() and re.match(r" {1,3}\S", line):
            wrong.append(line)
        before = line
    assert wrong == []
