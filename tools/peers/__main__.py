"""Compare Viewer Pipeline with other ways to do its job, on this machine. `make peers`; PEERS=--help lists options.

Each measurement starts servers and one program, and takes seconds to minutes; together they take more than an hour.
Exit status 1 if Viewer Pipeline has lost or doubled a view, or could not be measured.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tools.peers.peers import OURS, PEERS, Peer
from tools.peers.plan import Plan
from tools.peers.results import PeerResult, print_markdown, print_tables, read_results, write_json
from tools.peers.scenarios.faults import measure_deleted_vod, measure_lost_replies, measure_redis_fallback
from tools.peers.scenarios.kills import measure_kills
from tools.peers.scenarios.latency import measure_delays, measure_seen_by_others
from tools.peers.scenarios.throughput import measure_throughput, measure_throughput_in_turn

SCENARIOS: dict[str, Callable[[Peer, Plan], Any]] = {
    "throughput": measure_throughput,
    "seen_by_others": measure_seen_by_others,
    "delays": measure_delays,
    "kills": measure_kills,
    "redis_fallback": measure_redis_fallback,
    "lost_replies": measure_lost_replies,
    "deleted_vod": measure_deleted_vod,
}
SIZES = {
    "counters": "that are flushed at a time, to measure the speed",
    "rounds": "how often",
    "kills": "number of SIGKILLs",
    "views_per_second": "under kills",
}
progress = partial(print, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, or read what was measured; print it."""
    options = _parse_options()
    results = read_results(options.results) if options.results else _measure_all(options)
    if options.json:
        print(write_json(results))
    elif options.markdown:
        print_markdown(results)
    else:
        print_tables(results)
    return 0 if all(result.is_exact for result in results if result.name == OURS) else 1


def _measure_all(options: argparse.Namespace) -> list[PeerResult]:
    plan = Plan(options.python, options.history, options.seed)
    if options.quick:
        plan = plan.quick()
    plan = replace(plan, **{name: getattr(options, name) for name in SIZES if getattr(options, name) is not None})
    versions = _installed_versions(options.python)
    peers = [peer for peer in PEERS if not options.only or peer.name.startswith(tuple(options.only))]
    scenarios = options.scenario or list(SCENARIOS)
    rates = {}
    if "throughput" in scenarios:
        progress("throughput of all, in turn")
        rates = measure_throughput_in_turn(peers, plan)
    results = [measure(peer, plan, [name for name in scenarios if name != "throughput"], versions) for peer in peers]
    for result in results:
        rate = rates.get(result.name)
        if isinstance(rate, TimeoutError):
            result.failures["throughput"] = str(rate)
        else:
            result.throughput = rate
    return results


def measure(peer: Peer, plan: Plan, scenarios: list[str], versions: dict[str, str]) -> PeerResult:
    """Measure one program. A scenario that it does not survive is a result, too."""
    result = PeerResult.of(peer, versions)
    for name in scenarios:
        progress(f"{peer.name}: {name}")
        try:
            setattr(result, name, SCENARIOS[name](peer, plan))
        except TimeoutError as error:
            result.failures[name] = str(error)
        progress(f"  {getattr(result, name) or result.failures[name]}")
    return result


def _installed_versions(python: Path) -> dict[str, str]:
    """Return the versions of the packages in the environment of the programs; none if it does not exist."""
    if not python.exists():
        return {}
    command = [str(python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {package["name"]: package["version"] for package in json.loads(output)}


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make peers", description=__doc__.partition("\n")[0])
    names = ", ".join(peer.name for peer in PEERS)
    parser.add_argument("--only", action="append", metavar="NAME", help=f"beginning of a name; repeatable; of {names}")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="repeatable; all by default")
    parser.add_argument("--quick", action="store_true", help="small numbers: shows that it works, measures little")
    for name, meaning in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=meaning)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/why-not.md")
    parser.add_argument("--results", action="append", type=Path, metavar="FILE", help="what --json printed; repeatable")
    parser.add_argument(
        "--history", type=Path, metavar="DIRECTORY", help="write histories, which tools/judge.py describes"
    )
    parser.add_argument("--seed", type=int, default=1, help="of random moments")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="of the programs' environment")
    return parser.parse_args()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave no server and no directory
    sys.exit(main())
