"""Calls of a script for several slots, as few calls to each node. They declare no keys: a cluster refuses those then.

Redis checks each command of such a script, not the script as a whole. What it refuses, or cannot run in this way, is
run for one slot, with declared keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from viewer_pipeline.stores.cluster_map import Address
from viewer_pipeline.stores.cluster_nodes import LOST, ClusterNodes, Reply, ScriptCall
from viewer_pipeline.stores.redis import Script

GROUP_SLOTS = 64  # in one call
GROUP_WORDS = 2_000  # keys and arguments in one call: Lua takes 8000 at most


class GroupedScript(NamedTuple):
    """A script for a `single` slot, and the same for `each` of several (`each_shard.lua`).

    `own`: positions, from 1, of the arguments that the slots of a group do not have in common.
    """

    single: Script
    each: Script
    own: tuple[int, ...]


class SlotCall(NamedTuple):
    """A call for one slot. `arguments`: with any value in place of its `own` ones.

    `alone`: the same as `own`, for the call by itself, after one in a group of which no reply came.
    """

    slot: int
    keys: Sequence[str | bytes]
    arguments: tuple[str | bytes | int, ...]
    own: Sequence[str | bytes | int]
    alone: Sequence[str | bytes | int] | None = None

    def by_itself(self, script: GroupedScript) -> ScriptCall:
        """Return it as a call of the script for one slot."""
        arguments = list(self.arguments)
        for position, value in zip(script.own, self.alone or self.own, strict=True):
            arguments[position - 1] = value
        return ScriptCall(self.slot, self.keys, arguments)


class _Group(NamedTuple):
    """Calls to one node. `positions`: of each among all calls."""

    node: Address
    slot: int  # of the first
    positions: list[int]
    words: list[str | bytes | int]

    def call(self) -> ScriptCall:
        return ScriptCall(self.slot, (), self.words)


class ScriptGroups:
    """Runs scripts in groups. A node that refuses the first group of a script gets no other."""

    def __init__(self) -> None:
        self._serves = dict[tuple[Address, GroupedScript], bool]()

    def run(
        self, nodes: ClusterNodes, script: GroupedScript, calls: Sequence[SlotCall], *, following: bool
    ) -> list[Reply]:
        """Return the reply to each call, in order.

        `following`: what was redirected or got lost is sent again, for scripts that may be repeated.
        """
        replies = list[Reply]([None] * len(calls))
        first, rest = list[_Group](), list[_Group]()
        unknown = {node for node in nodes.map.nodes() if (node, script) not in self._serves}
        for group in _groups(nodes, script, calls):
            (first if group.node in unknown else rest).append(group)
            unknown.discard(group.node)
        self._run(nodes, script, first, replies, following=following)
        self._run(nodes, script, rest, replies, following=following)
        left = [at for at, reply in enumerate(replies) if reply is None]
        if left:
            run = nodes.run_script_following if following else nodes.run_script
            for at, reply in zip(left, run(script.single, [calls[at].by_itself(script) for at in left]), strict=True):
                replies[at] = reply
        return replies

    def _run(
        self,
        nodes: ClusterNodes,
        script: GroupedScript,
        groups: Iterable[_Group],
        replies: list[Reply],
        *,
        following: bool,
    ) -> None:
        """Run groups, and set the replies. That of a call which is still to be run stays None."""
        sent = [group for group in groups if self._serves.get((group.node, script), True)]
        for group, reply in zip(sent, nodes.run_script(script.each, [group.call() for group in sent]), strict=True):
            if isinstance(reply, list):
                for at, own in zip(group.positions, reply, strict=True):
                    replies[at] = own
            if not isinstance(reply, LOST):
                is_served = isinstance(reply, list) and reply.count(None) < len(reply)
                self._serves.setdefault((group.node, script), is_served)
            elif not following:
                for at in group.positions:
                    replies[at] = reply


def _groups(nodes: ClusterNodes, script: GroupedScript, calls: Sequence[SlotCall]) -> list[_Group]:
    """Put calls to the same node together that have the same arguments but for their own ones."""
    groups, growing, owners = list[_Group](), dict[tuple[object, ...], _Group](), nodes.map.owners()
    own = (len(script.own), *script.own)
    for at, call in enumerate(calls):
        node = owners[call.slot]
        if node is None:
            continue
        group = growing.get(key := (node, call.arguments))
        if group is None:
            words = [len(call.arguments), *call.arguments, *own]
            group = growing[key] = _Group(node, call.slot, [], words)
            groups.append(group)
        group.positions.append(at)
        group.words.extend((len(call.keys), *call.keys, *call.own))
        if len(group.positions) == GROUP_SLOTS or len(group.words) > GROUP_WORDS:
            del growing[key]
    return groups
