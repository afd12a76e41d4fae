"""Check the words of the code, the SQL, the Lua and the pages against the project's vocabulary.

`make vocabulary`, or `python -m tools.vocabulary [--count] [path …]`. Prints one line for each word that has a standard
replacement, and the number of them for each folder. Exit status 1 if there is any, or an exception that nothing needs.
The word list is vocabulary.toml, beside this file.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = Path(__file__).with_suffix(".toml")
SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE \w|DELETE FROM|(CREATE|ALTER|DROP) (TABLE|VIEW|INDEX))\b")
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LUA_TOKEN = re.compile(r"--(?P<comment>[^\n]*)|'(?P<single>[^'\n]*)'|\"(?P<double>[^\"\n]*)\"|(?P<name>[A-Za-z_]\w*)")
SQL_TOKEN = re.compile(r"--(?P<comment>[^\n]*)|'(?:[^']|'')*'|(?P<name>[A-Za-z_]\w*)")
MARKDOWN_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Term:
    """Words to avoid, and what to write instead. See vocabulary.toml for how each kind matches."""

    replacement: str
    words: tuple[tuple[str, ...], ...]
    names: frozenset[str]
    prose: re.Pattern[str] | None


@dataclass(frozen=True)
class Allowed:
    """A word that a file may use, with the reason."""

    word: str
    files: str
    reason: str


@dataclass(frozen=True)
class Violation:
    """A word in a file that has a standard replacement."""

    file: str
    line: int
    word: str
    replacement: str

    def __str__(self) -> str:
        """Render as `file:line: word → replacement`."""
        return f"{self.file}:{self.line}: {self.word} → {self.replacement}"


@dataclass
class Vocabulary:
    """The word list, and which of its exceptions were needed."""

    terms: tuple[Term, ...]
    exceptions: tuple[Allowed, ...]
    needed: set[Allowed] = field(default_factory=set)

    @classmethod
    def load(cls, path: Path = WORDS) -> Vocabulary:
        """Read the word list."""
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        terms = tuple(
            Term(
                replacement=entry["use"],
                words=tuple(tuple(word.split("_")) for word in entry.get("words", ())),
                names=frozenset(entry.get("names", ())),
                prose=re.compile("|".join(entry["prose"]), re.IGNORECASE) if "prose" in entry else None,
            )
            for entry in document["term"]
        )
        return cls(terms, tuple(Allowed(**entry) for entry in document["exception"]))

    def check(self, file: str, text: str) -> list[Violation]:
        """Return the violations of one file, in the order of its lines."""
        violations: set[Violation] = set()
        for name, line in module_names(file):
            violations.update(self._of_name(file, line, name))
        for kind, value, line in parts_of(file, text):
            violations.update((self._of_name if kind == "name" else self._of_prose)(file, line, value))
        rest = [violation for violation in violations if not self._is_allowed(violation)]
        return sorted(rest, key=lambda violation: (violation.line, violation.word))

    def unneeded(self) -> list[Allowed]:
        """Return the exceptions that no checked file needed."""
        return [allowed for allowed in self.exceptions if allowed not in self.needed]

    def _of_name(self, file: str, line: int, name: str) -> Iterator[Violation]:
        bare = name.strip("_")
        parts = split_words(bare)
        for term in self.terms:
            if bare in term.names or any(contains(parts, words) for words in term.words):
                yield Violation(file, line, bare, term.replacement)

    def _of_prose(self, file: str, line: int, text: str) -> Iterator[Violation]:
        for term in self.terms:
            for match in term.prose.finditer(text) if term.prose else ():
                at = line + text[: match.start()].count("\n")
                yield Violation(file, at, " ".join(match.group().split()), term.replacement)

    def _is_allowed(self, violation: Violation) -> bool:
        for allowed in self.exceptions:
            if allowed.word in {violation.word, "*"} and fnmatch.fnmatch(violation.file, allowed.files):
                self.needed.add(allowed)
                return True
        return False


def split_words(name: str) -> list[str]:
    """Split an identifier of any case into lower-case words: `last_Words`, `LastWords` → last, words."""
    return [word.lower() for part in name.split("_") for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", part)]


def contains(parts: list[str], words: tuple[str, ...]) -> bool:
    """Whether an identifier's words contain these, one after the other."""
    return any(tuple(parts[at : at + len(words)]) == words for at in range(len(parts) - len(words) + 1))


def module_names(file: str) -> Iterator[tuple[str, int]]:
    """Yield the names in the path of a program or query file."""
    if file.endswith((".py", ".sql", ".lua")):
        for part in Path(file).with_suffix("").parts:
            yield part, 1


def parts_of(file: str, text: str) -> Iterator[tuple[str, str, int]]:
    """Yield the names and the prose of a file: kind, text, line."""
    if file.endswith(".py"):
        yield from parts_of_python(text)
    elif file.endswith((".sql", ".lua")):
        yield from parts_of_queries(text, SQL_TOKEN if file.endswith(".sql") else LUA_TOKEN)
    elif file.endswith(".md"):
        yield from parts_of_markdown(text)
    else:
        yield "prose", text, 1


def parts_of_python(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield defined names, keywords, string keys and SQL as names; comments and other strings as prose."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 1)
        for name in defined_names(node):
            yield "name", name, line
        for key in string_keys(node):
            yield "name", key, line
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if SQL.search(node.value):
                for kind, value, offset in parts_of_queries(node.value, SQL_TOKEN):
                    yield kind, value, line + offset - 1
            elif re.fullmatch(r"viewer[_/:][a-z_]+", node.value):  # metrics, tags, keys of Redis
                yield "name", re.split(r"[/:]", node.value)[-1], line
            else:
                yield "prose", node.value, line
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield "prose", token.string, token.start[0]


def defined_names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node defines, and the names of the keywords that it passes."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            yield name
        case ast.keyword(arg=str(name)) | ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case _:
            pass


def string_keys(node: ast.AST) -> Iterator[str]:
    """Yield string keys of dict literals and subscripts that look like identifiers."""
    keys: list[ast.expr | None] = []
    if isinstance(node, ast.Dict):
        keys = list(node.keys)
    elif isinstance(node, ast.Subscript):
        keys = [node.slice]
    for key in keys:
        if isinstance(key, ast.Constant) and isinstance(key.value, str) and IDENTIFIER.fullmatch(key.value):
            yield key.value


def parts_of_queries(text: str, token: re.Pattern[str]) -> Iterator[tuple[str, str, int]]:
    """Yield the names in SQL or Lua, the strings of Lua that look like names, and the comments as prose."""
    line, at = 1, 0
    for match in token.finditer(text):
        line, at = line + text[at : match.start()].count("\n"), match.start()
        groups = match.groupdict()
        if groups["comment"] is not None:
            title = re.fullmatch(r" name: (\w+)", groups["comment"])
            yield ("name", title[1], line) if title else ("prose", groups["comment"], line)
        name = groups["name"] or groups.get("single") or groups.get("double")
        if name and IDENTIFIER.fullmatch(name):
            yield "name", name, line


def parts_of_markdown(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield the names in code of a page, and its text without the code as prose."""
    for match in MARKDOWN_CODE.finditer(text):
        line = text[: match.start()].count("\n") + 1
        for name in IDENTIFIER.finditer(match.group()):
            if "_" in name.group() or name.group() == match.group().strip("`"):
                yield "name", name.group(), line + match.group()[: name.start()].count("\n")
    yield "prose", MARKDOWN_CODE.sub(lambda code: "\n" * code.group().count("\n"), text), 1


def checked_files(paths: list[str]) -> list[str]:
    """Return the files of the repository below these paths that the vocabulary applies to."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    kinds = (".py", ".sql", ".lua", ".md", ".yaml", ".service", "env.example", "Makefile", "Dockerfile")
    return [file for file in listed if file.endswith(kinds) and file != "CHANGELOG.md" and (ROOT / file).is_file()]


def main() -> int:
    """Check the named files and folders, or the whole repository."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", default=[])
    parser.add_argument("--count", action="store_true", help="print the numbers of the folders only")
    options = parser.parse_args()
    vocabulary = Vocabulary.load()
    folders: Counter[str] = Counter()
    for file in checked_files(options.paths):
        for violation in vocabulary.check(file, (ROOT / file).read_text(encoding="utf-8")):
            folders[str(Path(file).parent)] += 1
            if not options.count:
                print(violation)  # noqa: T201 - this is a script
    for folder, number in sorted(folders.items()):
        print(f"{number:6} {folder}")  # noqa: T201
    unneeded = [] if options.paths else vocabulary.unneeded()
    for allowed in unneeded:
        print(f"unneeded exception: {allowed.word} in {allowed.files}")  # noqa: T201
    return 1 if folders or unneeded else 0


if __name__ == "__main__":
    sys.exit(main())
