"""Every breach that `make prove` tries applies to the code, and every rule of the protocol has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.prove import BREACHES, ROOT, Breach, all_breaches, rewrite

WITHOUT_BREACH = {"R9"}  # the tests of all others hold no lock
each_breach = pytest.mark.parametrize("breach", all_breaches(), ids=lambda breach: breach.path.stem)


def replaced_blocks(patch: str) -> list[tuple[str, str]]:
    """Return what each hunk of a patch replaces, with its context: file, lines."""
    blocks = []
    for part in re.split(r"^--- a/", patch, flags=re.MULTILINE)[1:]:
        file = part.partition("\n")[0]
        hunks = re.split(r"^@@ .*\n", part, flags=re.MULTILINE)[1:]
        blocks += [
            (file, "".join(line[1:] for line in hunk.splitlines(keepends=True) if line[0] in " -")) for hunk in hunks
        ]
    return blocks


@each_breach
def test_a_breach_applies_to_the_code(breach: Breach) -> None:
    """Line by line, in just one place; its tests exist."""
    breach.apply(ROOT, "--check")
    blocks = replaced_blocks(breach.path.read_text(encoding="utf-8"))
    assert blocks
    assert [(ROOT / file).read_text(encoding="utf-8").count(lines) for file, lines in blocks] == [1] * len(blocks)
    assert [test for test in breach.tests if not (ROOT / test).is_file()] == []


def test_every_rule_of_the_protocol_has_a_breach() -> None:
    """The rules are those of the table in docs/flush-protocol.md, but for the one that no breach can show."""
    page = (ROOT / "docs/flush-protocol.md").read_text(encoding="utf-8")
    rules = set(re.findall(r"^\| (R\d+) \|", page, re.MULTILINE))
    assert len(rules) > 10
    assert rules - {breach.rule for breach in all_breaches()} == WITHOUT_BREACH


def test_every_file_is_a_patch() -> None:
    """A file with another suffix would never be tried."""
    assert [path.name for path in BREACHES.iterdir() if path.suffix != ".patch"] == []


@pytest.mark.parametrize("missing", ["Rule: R1\n", "Breach: nothing is counted\n", "Test: a.py\n"])
def test_a_breach_without_a_header_is_refused(tmp_path: Path, missing: str) -> None:
    """Rule, sentence and tests are all required."""
    header = "Rule: R1\nBreach: nothing is counted\nTest: a.py\n"
    path = tmp_path / "a.patch"
    path.write_text(header.replace(missing, "") + "\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-1\n+2\n")
    with pytest.raises(ValueError, match="needs one line Rule"):
        Breach.read(path)


def test_a_breach_of_other_code_is_refused(tmp_path: Path) -> None:
    """Where a line of the context differs, nothing is replaced."""
    path = tmp_path / "a.patch"
    hunk = "--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n x = 1\n-y = 2\n+y = 3\n"
    path.write_text(f"Rule: R1\nBreach: nothing is counted\nTest: a.py\n\n{hunk}")
    (tmp_path / "a.py").write_text("x = 0\ny = 2\n")
    with pytest.raises(ValueError, match="does not apply"):
        Breach.read(path).apply(tmp_path)
    assert (tmp_path / "a.py").read_text() == "x = 0\ny = 2\n"


def test_a_breach_of_other_code_is_not_refreshed(tmp_path: Path) -> None:
    """It stays as it is, so that nothing hides it."""
    path = tmp_path / "a.patch"
    hunk = "--- a/README.md\n+++ b/README.md\n@@ -1,2 +1,2 @@\n no such line\n-no such line\n+another\n"
    text = f"Rule: R1\nBreach: nothing is counted\nTest: a.py\n\n{hunk}"
    path.write_text(text)
    with pytest.raises(ValueError, match="does not apply"):
        rewrite(Breach.read(path))
    assert path.read_text() == text
