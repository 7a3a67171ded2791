"""The dashboard's benchmark fills a database of its own, checks every count it times, and ends with its line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.dashboard import Measured, percentile, summary

ROOT = Path(__file__).parents[2]


def test_the_last_line_compares_the_slower_page_of_either_size() -> None:
    small = Measured(10, {"all": [10.0] * 99 + [500.0]}, {"in review": [20.0] * 10, "decided": [20.0] * 10})
    large = Measured(1000, {"all": [30.0] * 20}, {"in review": [5.0] * 20, "decided": [5.0] * 20})
    assert summary([small, large]) == {"p95_ms_10k": 20.0, "p95_ms_1m": 30.0, "ratio": 1.5}


def test_the_percentile_is_of_the_slowest() -> None:
    assert percentile([float(n) for n in range(101)]) == pytest.approx(95)


@pytest.mark.timeout(300)
def test_the_command_ends_with_that_line() -> None:
    command = [sys.executable, "-m", "benchmarks.dashboard", "--cases", "400", "800", "--requests", "2"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    line = json.loads(ended.stdout.splitlines()[-1])
    assert set(line) == {"p95_ms_10k", "p95_ms_1m", "ratio"} and all(value > 0 for value in line.values())
    for kind in ("rare category and age", "older than a week", "in review"):
        assert ended.stdout.count(kind) == 2
