"""What must agree across files that never import each other: queues and who consumes them, commands, compose, pins."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from alembic.script import ScriptDirectory

import migrations
from infra import gunicorn
from infra.cli import COMMANDS
from infra.processes import QUEUES, ROOT
from infra.supervision import STOP_TIMEOUT_S
from workers.celery_app import ROUTES, SOFT_SHUTDOWN_S, TASK_MODULES, app

PACKAGES = ("api", "infra", "migrations", "model", "moderation", "tests", "workers")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
KEYS = "telltale_secret_keys"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

# In a fresh process: which tasks one role's modules register, and whether that loaded torch.
ROLE = """
import json, sys
from workers.celery_app import app
app.loader.import_default_modules()
tasks = sorted(name for name in app.tasks if not name.startswith("celery."))
print(json.dumps({"tasks": tasks, "torch": "torch" in sys.modules}))
"""


def python(code: str, monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What a fresh Python prints."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def test_every_queue_is_consumed_by_exactly_one_role() -> None:
    consumed = [queue for queues in QUEUES.values() for queue in queues]
    assert sorted(consumed) == sorted(set(ROUTES.values()))
    assert set(QUEUES) == set(TASK_MODULES)


@pytest.mark.parametrize("role", QUEUES)
def test_a_role_registers_the_tasks_of_its_queues_and_only_screening_loads_torch(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = json.loads(python(ROLE, monkeypatch, TELLTALE_WORKER_ROLE=role))
    assert found["tasks"] == sorted(task for task, queue in ROUTES.items() if queue in QUEUES[role])
    assert found["torch"] == (role == "screening")


def test_beat_sends_tasks_that_exist() -> None:
    assert {entry["task"] for entry in app.conf.beat_schedule.values()} <= set(ROUTES)


def test_whoever_stops_a_process_waits_longer_than_it_may_take() -> None:
    """Else it is killed in the middle of what it would have finished or given back."""
    longest = max(gunicorn.graceful_timeout, SOFT_SHUTDOWN_S)
    graces = {name: service.get("stop_grace_period", "10s") for name, service in COMPOSE["services"].items()}
    for name in ("api", "screening", "screening-cpu", "screening-vllm", "fetching", "delivery"):
        assert longest + 1 < int(graces[name].removesuffix("s")), name
    assert longest + 1 < STOP_TIMEOUT_S
    assert app.conf.worker_soft_shutdown_timeout == SOFT_SHUTDOWN_S


def test_images_consume_the_queues_of_their_role() -> None:
    for file, role in (("gpu", "screening"), ("io", "delivery")):
        text = (ROOT / f"infra/docker/{file}.Dockerfile").read_text()
        queues = re.search(r'"--queues", "([a-z,]+)"', text)
        assert queues and set(queues[1].split(",")) == set(QUEUES[role])
        assert f"TELLTALE_WORKER_ROLE={role}\n" in text


def test_compose_fetches_links_with_the_delivery_image_in_a_role_of_its_own() -> None:
    ours, delivery = COMPOSE["services"]["fetching"], COMPOSE["services"]["delivery"]
    assert ours["image"] == delivery["image"]
    assert ours["environment"] == delivery["environment"] | {"TELLTALE_WORKER_ROLE": "fetching"}
    command = ours["command"]
    assert tuple(command[command.index("--queues") + 1].split(",")) == QUEUES["fetching"]
    assert command[command.index("--hostname") + 1] == "fetching@%h", "the health check asks for it by this name"


def test_compose_builds_from_files_that_exist_and_migrates_first() -> None:
    ours = {name: service for name, service in COMPOSE["services"].items() if "build" in service}
    for name, service in ours.items():
        assert (ROOT / service["build"]["dockerfile"]).exists()
        if name not in ("migrate", "backup"):
            assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_compose_gives_the_keys_of_stored_secrets_to_who_opens_them_and_to_nothing_that_runs_the_model() -> None:
    """The service `backup` restores, too, and refuses a backup whose keys it does not have."""
    given = {name for name, service in COMPOSE["services"].items() if KEYS in service.get("secrets", [])}
    assert given == {"migrate", "api", "delivery", "fetching", "backup"}
    assert KEYS.upper() not in (ROOT / "docker-compose.yml").read_text(), "no variable that all of them get"


@pytest.mark.parametrize(("name", "judges"), [("retraining", "screening"), ("retraining-cpu", "screening-cpu")])
def test_compose_retrains_with_the_screening_image_in_a_folder_that_is_kept_and_writable(
    name: str, judges: str
) -> None:
    ours, screening = COMPOSE["services"][name], COMPOSE["services"][judges]
    assert ours["command"] == ["python", "-m", "workers.retraining"]
    assert (ours["image"], ours["build"]) == (screening["image"], screening["build"])
    assert set(ours["environment"]) > set(screening["environment"])
    folder = ours["environment"]["TELLTALE_RETRAIN_FOLDER"]
    assert f"retraining:{folder}" in ours["volumes"] and "retraining" in COMPOSE["volumes"]
    made = re.search(r"^RUN mkdir (checkpoints.*)$", (ROOT / "infra/docker/gpu.Dockerfile").read_text(), re.MULTILINE)
    assert made and Path(folder).name in made[1].split(), "a volume over nothing belongs to root"


def test_there_is_one_migration_head() -> None:
    assert len(ScriptDirectory.from_config(migrations.config("postgresql://")).get_heads()) == 1


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert not tree.body or ast.get_docstring(tree), "the module has no docstring"


def test_every_command_is_registered_and_importable() -> None:
    modules = {path.partition(":")[0] for path, _ in COMMANDS.values()}
    files = [*(ROOT / "infra/commands").glob("[!_]*.py"), *(ROOT / "model").rglob("command.py")]
    assert modules == {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files}
    for name, (path, _) in COMMANDS.items():
        module, _, attribute = path.partition(":")
        assert getattr(importlib.import_module(module), attribute).name == name


def test_help_imports_nothing_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from infra.cli import telltale; telltale(['--help'], standalone_mode=False);"
        "print({'sqlalchemy', 'celery', 'torch', 'flask', 'pydantic', 'boto3'} & set(sys.modules))"
    )
    assert python(code, monkeypatch).endswith("set()\n")


def test_pins_name_versions_and_no_address() -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9._-]+==(\d+!)?[a-z0-9.]+", pin)] == []
    assert "torch==2.13.0" in pins
