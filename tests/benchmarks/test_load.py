"""The benchmarks of load: they measure what they say, refuse to report what did not happen, and end with their line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from PIL import Image
from rich.console import Console
from sqlalchemy import Engine, func, select

from benchmarks import consumption, growth, intake, pipeline
from benchmarks.ear import Ear
from benchmarks.growth import Figures, Memory
from benchmarks.intake import Measured, Turn
from benchmarks.pipeline import Hops, Way
from moderation.db import transaction
from moderation.tables import Case
from moderation.vocabulary import CaseStatus
from tests.factories import make_case, make_tenant

ROOT = Path(__file__).parents[2]


def run(name: str, *options: str) -> dict[str, object]:
    """The last line of a benchmark, run on the tests' own services."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    line: dict[str, object] = json.loads(ended.stdout.splitlines()[-1])
    return line


def test_files_that_are_sent_are_whole_images_and_never_the_same() -> None:
    (file,) = intake.files(1)
    first, second = (b"".join(file.numbered(number)) for number in (1, 2))
    assert len(first) == len(second) == file.size
    assert hashlib.sha256(first).digest() != hashlib.sha256(second).digest()
    assert Image.open(io.BytesIO(first)).tobytes() == Image.open(io.BytesIO(second)).tobytes()


def test_accepts_are_compared_over_all_turns() -> None:
    service = [Turn(1.0, [10.0] * 100), Turn(3.0, [30.0] * 100)]
    floor = [Turn(1.0, [1.0] * 50), Turn(1.0, [1.0] * 150)]
    assert Measured(service, floor).summary == {"accepts_per_s": 50, "floor_per_s": 100, "ratio": 0.5, "p99_ms": 30}


def test_an_error_of_one_connection_is_the_whole_turns() -> None:
    def fail() -> None:
        raise AssertionError("the api answered 500")

    with pytest.raises(AssertionError, match="500"):
        intake.together([fail, lambda: None], 5)


def test_intake_is_measured_and_every_accept_is_there(db: Engine, bucket: str) -> None:
    line = run("intake", "--seconds", "0.2", "--turns", "1", "--concurrency", "2", "--key")
    assert set(line) == {"accepts_per_s", "floor_per_s", "ratio", "p99_ms"}
    assert all(isinstance(value, float) and value > 0 for value in line.values())


def test_the_pipelines_line_compares_paces_and_takes_the_bare_detector_from_the_cpu() -> None:
    service = [Way(20, 10.0, {"api": 0.4, "screening": 6.4, "postgres": 0.2}, 6.0)]
    alone = [Way(10, 4.0, {"screening": 3.0})]
    assert service[0].beside_network_ms == pytest.approx(50)
    assert pipeline.summary(service, alone, Hops([10.0, 20.0, 90.0], [30.0, 31.0, 32.0])) == {
        "ratio_to_detector": 0.8,
        "service_cpu_ms_per_case": 50.0,
        "accept_to_start_ms_p50": 20.0,
        "settled_to_webhook_ms_p50": 31.0,
    }


def told(ear: Ear, type_: str, case_id: UUID) -> int:
    body = json.dumps({"type": type_, "data": {"id": str(case_id)}}).encode()
    with urllib.request.urlopen(urllib.request.Request(ear.url, body, method="POST"), timeout=10) as answer:
        return int(answer.status)


def test_the_ear_hears_only_the_last_word_on_a_case_and_the_first_time() -> None:
    case_id = uuid4()
    with Ear() as ear:
        assert told(ear, "submission.accepted", case_id) == 204
        assert ear.settled == {}
        with pytest.raises(TimeoutError, match="1 of 1"):
            ear.wait_for([case_id], 0.01)
        told(ear, "decision.created", case_id)
        ear.wait_for([case_id], 10)
        first = ear.settled
        told(ear, "decision.created", case_id)
        assert ear.settled == first


def test_hops_are_between_the_rows_own_times_and_the_ears(db: Engine) -> None:
    with transaction() as session:
        case = make_case(session, make_tenant(session), CaseStatus.DECIDED)
    ear = Ear()
    assert case.settled_at is not None
    ear._settled[case.id] = case.settled_at + timedelta(milliseconds=25)
    found = pipeline.hops([case.id], ear)
    assert found.told == [pytest.approx(25)]
    assert found.started == [0.0]  # both rows were written in one transaction here
    ear.server._http.server_close()


def test_memory_is_a_slope_from_the_first_quarter_on() -> None:
    at = [{"api": 50 * 2**20}, *({"api": (100 + quarter) * 2**20} for quarter in range(4))]
    assert Memory(4000, at).slope_kb("api") == pytest.approx(1024)


def test_cpu_and_memory_of_a_process_are_its_own() -> None:
    before = consumption.cpu_s(os.getpid())
    until = time.process_time() + 0.06
    while time.process_time() < until:
        pass
    assert 0.009 < consumption.cpu_s(os.getpid()) - before < 5, "in steps of 0.01"
    assert consumption.memory_by_program({"me": os.getpid()})["me"] > 10 * 2**20
    assert consumption.cpu_by_thread(os.getpid())[os.getpid()] > 0


def test_of_threads_those_count_that_were_busiest_meanwhile() -> None:
    before, after = {1: 90.0, 2: 1.0}, {1: 90.5, 2: 4.0, 3: 1.0}
    assert consumption.busiest_s(before, after, 1) == 3.0
    assert consumption.busiest_s(before, after, 2) == 4.0


def test_growth_fills_a_database_and_says_what_was_found_at_each_size(db: Engine) -> None:
    growth.people()
    growth.fill(0, 60)
    growth.fill(60, 100)
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Case)) == 100
    found = Figures(100, 512_000, {"accepts_per_s": 40.0, "ratio": 0.5}, 60.0, 20.0, 30.0)
    watched = Memory(4, [{"api": 2**20 * number} for number in range(1, 6)])
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(growth.sizes([found]), growth.memories(watched))
    assert "100 cases" in (said := console.export_text()) and "after 4" in said
    line = growth.summary([found], watched)
    assert line["sizes"][0]["database_kb_per_case"] == 5.0
    assert line["memory_kb_per_1000_cases"] == {"api": 1024 * 1000}


def test_small_files_are_images() -> None:
    data = b"".join(growth.small_files(1)[0].numbered(7))
    assert Image.open(io.BytesIO(data)).size == (growth.SMALL_SIDE, growth.SMALL_SIDE)
