"""CPU time and memory of the descendants of a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from viewer_pipeline.bench import process_tree
from viewer_pipeline.bench.process_tree import ProcessStat

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', '''{BURN}'''])\nprint(flush=True)\ninput()"


@linux
def test_a_name_may_contain_anything() -> None:
    """Fields are counted from its end; the times of ended children are added."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = ["S", "17", *["0"] * 9, *(str(seconds * ticks) for seconds in (1, 2, 30, 40)), "20", "0"]
    assert process_tree.parse_stat(f"42 (a ) b (c) {' '.join(fields)}\n") == ProcessStat(17, 73)


def test_descendants_of_any_depth() -> None:
    """Not the process itself, and no other."""
    parents = {1: 0, 2: 1, 5: 2, 3: 5, 4: 1, 7: 6}
    stats = {pid: ProcessStat(parent, 0) for pid, parent in parents.items()}
    assert set(process_tree.find_descendants(stats, 2)) == {5, 3}
    assert set(process_tree.find_descendants(stats, 3)) == set()


@linux
def test_ended_children_count() -> None:
    """The CPU time of a grandchild stays with its parent; a process that has ended has no memory."""
    before = process_tree.sum_cpu_seconds(os.getpid())
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        assert process_tree.sum_cpu_seconds(os.getpid()) - before > 0.285  # 0.3, less two errors of rounding
        assert process_tree.sum_pss_mb([child.pid]) > 1
        assert process_tree.find_by_command(process_tree.read_descendants(os.getpid()), "process_time") == [child.pid]
        child.stdin.close()
    assert process_tree.sum_pss_mb([child.pid]) == 0
    assert process_tree.find_by_command([child.pid], "process_time") == []
