"""Look at the pages that `mkdocs build` has made: they load nothing from elsewhere. Part of `make docs`.

Whoever reads the pages is known to nobody else, and they look the same without a network.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

SITE = Path(__file__).parents[1] / "site"
LOADS = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}
LINKS_ONLY = {"canonical", "prev", "next", "alternate"}  # <link rel=…> that a browser does not fetch
ELSEWHERE = re.compile(r"(?:https?:)?//")
IN_STYLES = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)")


class _Page(HTMLParser):
    """Collects what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the address of whatever a browser fetches by itself."""
        found = dict(attrs)
        if found.get("rel") not in LINKS_ONLY:
            self.loaded.append(found.get(LOADS.get(tag, "")) or "")
        self.loaded += IN_STYLES.findall(found.get("style") or "")


def loads_from_elsewhere(site: Path) -> Iterator[str]:
    """Give `file: address` of everything that pages and style sheets below a directory load from other hosts."""
    for page in sorted(site.rglob("*.html")):
        parser = _Page()
        parser.feed(page.read_text(encoding="utf-8"))
        yield from (f"{page.relative_to(site)}: {url}" for url in parser.loaded if ELSEWHERE.match(url))
    for sheet in sorted(site.rglob("*.css")):
        yield from (f"{sheet.relative_to(site)}: {url}" for url in IN_STYLES.findall(sheet.read_text(encoding="utf-8")))


def main() -> None:
    """Exit with what is loaded from elsewhere, or say how many pages load nothing."""
    pages = len(list(SITE.rglob("*.html")))
    if found := list(loads_from_elsewhere(SITE)):
        sys.exit("pages load from elsewhere:\n" + "\n".join(found))
    if not pages:
        sys.exit(f"{SITE} has no pages")
    print(f"{pages} pages in {SITE.name}/, which load nothing from elsewhere: open {SITE.name}/index.html")  # noqa: T201


if __name__ == "__main__":
    main()
