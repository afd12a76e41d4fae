"""The command `docs`: the pages of the documentation, which the wheel contains."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path, PurePosixPath

import click

PACKAGE = Path(__file__).parents[1]
HIDDEN = re.compile(r"\d{4}-")  # single decisions: the page `adr` lists them


def read_pages() -> dict[str, Path]:
    """Return the page of each topic: in the package, or beside it in a checkout."""
    directory = next(path for path in (PACKAGE / "docs", PACKAGE.parent / "docs") if path.is_dir())
    return {_topic_of(str(page.relative_to(directory))): page for page in sorted(directory.rglob("*.md"))}


def _topic_of(name: str) -> str:
    """Return the topic that a file or a link names: `how-to/clones.md#adopt` is `clones`, `adr/index.md` is `adr`."""
    path = PurePosixPath(name.partition("#")[0])
    return path.parent.name or path.stem if path.stem == "index" else path.stem


def _complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [topic for topic in read_pages() if topic.startswith(incomplete)]


@click.command()
@click.argument("topic", required=False, shell_complete=_complete)
def docs(topic: str | None) -> None:
    """Print a page of the documentation; without TOPIC, list them.

    TOPIC is the name of a page, such as `guarantees`. On a terminal the page is formatted, and opened in $PAGER.
    """
    pages = read_pages()
    if topic is None:
        listed = {topic: _title_of(page) for topic, page in pages.items() if not HIDDEN.match(topic)}
        width = max(map(len, listed))
        click.echo("\n".join(f"{topic:{width}}  {title}" for topic, title in sorted(listed.items())))
    elif (page := pages.get(_topic_of(topic))) is None:
        topics = textwrap.fill(
            ", ".join(sorted(topic for topic in pages if not HIDDEN.match(topic))), width=78, break_on_hyphens=False
        )
        raise click.BadParameter(f"there is no page {topic!r}. The pages are:\n{topics}", param_hint="'TOPIC'")
    else:
        _print_page(page.read_text(encoding="utf-8"))


def _title_of(page: Path) -> str:
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _print_page(text: str) -> None:
    """Print Markdown: formatted and in a pager on a terminal, else as it is."""
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    with console.capture() as formatted:
        console.print(Markdown(text, hyperlinks=False))
    click.echo_via_pager(formatted.get())
