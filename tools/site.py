"""Check that the pages of `mkdocs build` load nothing from other hosts. Part of `make docs`.

So no other host learns who reads the pages, and they look the same without a network.
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
OTHER_HOST = re.compile(r"(?:https?:)?//")
IN_STYLES = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)")


class _Page(HTMLParser):
    """Collects the addresses that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the addresses that a browser fetches by itself."""
        attributes = dict(attrs)
        if attributes.get("rel") not in LINKS_ONLY:
            self.loaded.append(attributes.get(LOADS.get(tag, "")) or "")
        self.loaded += IN_STYLES.findall(attributes.get("style") or "")


def loads_from_other_hosts(site: Path) -> Iterator[str]:
    """Yield `file: address` of everything that pages and style sheets below a directory load from other hosts."""
    for page in sorted(site.rglob("*.html")):
        parser = _Page()
        parser.feed(page.read_text(encoding="utf-8"))
        yield from (f"{page.relative_to(site)}: {url}" for url in parser.loaded if OTHER_HOST.match(url))
    for sheet in sorted(site.rglob("*.css")):
        yield from (f"{sheet.relative_to(site)}: {url}" for url in IN_STYLES.findall(sheet.read_text(encoding="utf-8")))


def main() -> None:
    """Exit with the addresses on other hosts, or print the number of pages."""
    pages = len(list(SITE.rglob("*.html")))
    if addresses := list(loads_from_other_hosts(SITE)):
        sys.exit("pages load from other hosts:\n" + "\n".join(addresses))
    if not pages:
        sys.exit(f"{SITE} has no pages")
    print(f"{pages} pages in {SITE.name}/, which load nothing from other hosts: open {SITE.name}/index.html")  # noqa: T201


if __name__ == "__main__":
    main()
