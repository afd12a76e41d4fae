"""The search for a state that violates the law, for the models that are apart from the flush."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from viewer_pipeline_tests.model.explore import without_cycles

W = TypeVar("W")


def search(
    first: W, successors: Callable[[W], Iterable[tuple[str, W]]], violation: Callable[[W], str]
) -> tuple[int, str, list[str]]:
    """Visit every state, breadth first; return their number, and a violation of the law with the path to it."""
    origins: dict[W, tuple[W, str] | None] = {first: None}
    queue = deque([first])
    with without_cycles():
        while queue:
            world = queue.popleft()
            if violated := violation(world):
                path, at = list[str](), origins[world]
                while at is not None:
                    path.append(at[1])
                    at = origins[at[0]]
                return len(origins), violated, path[::-1]
            for label, after in successors(world):
                if after not in origins:
                    origins[after] = world, label
                    queue.append(after)
    return len(origins), "", []
