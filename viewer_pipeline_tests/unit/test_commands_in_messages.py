"""Messages name commands by `command_to_type`, and pages by the command that prints them: both work as printed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from viewer_pipeline.cli.docs import read_pages
from viewer_pipeline.cli.main import main

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "viewer_pipeline").rglob("*.py"))
COMMAND = re.compile(rf"viewer-pipeline ({'|'.join(main.commands)})\b")
PAGE = re.compile(r"\bdocs/\S+\.md")
LABELS = {"viewer-pipeline up": "application_name of a session", "viewer-pipeline soak, seed ": "name of a history"}
MESSAGES = "errors.py"  # where docstrings are messages


def texts_of(module: Path) -> Iterator[str]:
    """Yield the strings of a module that can be printed: all but docstrings, unless these are messages."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    statements = [] if module.name == MESSAGES else [node for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    docstrings = [statement.value for statement in statements]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.value


@pytest.mark.parametrize("module", MODULES, ids=[module.name for module in MODULES])
def test_commands_are_not_written_out(module: Path) -> None:
    """Nor are pages, which somebody who has installed the wheel does not have as files."""
    wrong = [text for text in texts_of(module) if COMMAND.search(text) or PAGE.search(text)]
    assert [text for text in wrong if text not in LABELS] == []


def test_commands_and_topics_exist() -> None:
    """Each argument of `command_to_type` begins with a command, and `docs` has the page."""
    code = "".join(module.read_text(encoding="utf-8") for module in MODULES)
    arguments = [words.split() for words in re.findall(r"command_to_type\(f?[\"']([^\"'{]+)", code)]
    assert len(arguments) > 20
    assert {words[0] for words in arguments} <= main.commands.keys()
    assert {words[1] for words in arguments if words[0] == "docs" and len(words) > 1} <= read_pages().keys()
