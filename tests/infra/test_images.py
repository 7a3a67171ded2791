"""The images, as far as they can be proven where none can be built.

What each Dockerfile says is read from it and done here: its packages and no others make an environment, in which its
command starts, and its health check finds that it has, with the wheel that the image would hold.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.request import urlopen

import pytest
from packaging.version import Version
from sqlalchemy import Engine

from infra.commands.models import ensure_champion
from infra.services import free_port, wait_until
from moderation import model_versions
from moderation.db import transaction
from moderation.settings import Settings, settings
from tests import packaged
from tests.factories import make_tenant
from tests.packaged import PACKAGES, REPOSITORY

FOLDER = REPOSITORY / "infra" / "docker"
START_S = 150.0
WORKER_IS_READY = "ready."
# The first test that needs the wheel builds it, and whoever comes second waits for that.
pytestmark = pytest.mark.timeout(500)


@dataclass(frozen=True)
class Dockerfile:
    """What one of them says; the last of its stages is the image."""

    path: Path

    @property
    def name(self) -> str:
        """Of the image: api, io or gpu."""
        return self.path.name.removesuffix(".Dockerfile")

    @cached_property
    def stages(self) -> list[list[tuple[str, str]]]:
        """Instructions with what they are given, continued lines joined; what stands before the first FROM is none."""
        lines = [line for line in self.path.read_text().splitlines() if not line.startswith("#")]
        made: list[list[tuple[str, str]]] = []
        for instruction in "\n".join(lines).replace("\\\n", " ").splitlines():
            word, _, given = instruction.partition(" ")
            if word == "FROM":
                made.append([])
            if made and word:
                made[-1].append((word, " ".join(given.split())))
        return made

    def all(self, word: str) -> list[str]:
        """What an instruction is given, in any stage."""
        return [given for stage in self.stages for instruction, given in stage if instruction == word]

    def last(self, word: str) -> str:
        """What the image's own stage says at last."""
        return [given for instruction, given in self.stages[-1] if instruction == word][-1]

    @property
    def extras(self) -> frozenset[str]:
        """Those of Telltale that are installed."""
        (found,) = re.findall(r" '\.\[([a-z,]+)\]'", " ".join(self.all("RUN")))
        return frozenset(found.split(","))

    @property
    def command(self) -> list[str]:
        """What starts."""
        words: list[str] = json.loads(self.last("CMD"))
        return words

    @property
    def health(self) -> list[str]:
        """What tells whether it serves."""
        words: list[str] = json.loads(self.last("HEALTHCHECK").partition("CMD ")[2])
        return words

    @property
    def variables(self) -> dict[str, str]:
        """TELLTALE_* that the image sets."""
        words = [word for given in self.all("ENV") for word in shlex.split(given) if word.startswith("TELLTALE_")]
        return dict(word.split("=", 1) for word in words)


IMAGES = [Dockerfile(path) for path in sorted(FOLDER.glob("*.Dockerfile"))]
of_each = pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)

# What may not be there, and the modules that the processes of this image begin with.
WITHOUT = {
    "api": ("torch", "transformers", "celery", "kombu"),
    "io": ("torch", "transformers", "flask", "gunicorn"),
    "gpu": ("flask", "gunicorn", "pytest"),
}
ENTRY_POINTS = {
    "api": "api.wsgi, infra.gunicorn, infra.cli",
    "io": "workers.relay, workers.delivery, workers.fetching, workers.housekeeping, infra.preparation, infra.cli",
    "gpu": "workers.retraining.__main__, infra.cli",
}


def context() -> set[str]:
    """What stands at the top of the build's context: of what is in the repository, that which .dockerignore lets in."""
    first, *others = (REPOSITORY / ".dockerignore").read_text().split()
    assert first == "*", "what nobody thought of stays out"
    return {line.removeprefix("!") for line in others if line.startswith("!")}


def test_the_context_holds_what_is_built_and_nothing_that_is_secret_or_large() -> None:
    assert context() == {*PACKAGES, *packaged.DESCRIPTION, "constraints.txt"}
    assert all((REPOSITORY / name).exists() for name in context())
    find = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert {name.rstrip("*") for name in find["include"]} == set(PACKAGES)


@of_each
def test_what_is_copied_is_there_and_what_is_set_is_a_setting(image: Dockerfile) -> None:
    named = {given.partition(" AS ")[2] for given in image.all("FROM")}
    for given in image.all("COPY"):
        *sources, _ = [word for word in given.split() if not word.startswith("--")]
        origin = re.search(r"--from=(\S+)", given)
        assert origin[1] in named if origin else {*sources} <= {".", *context()}, given
    assert {name.removeprefix("TELLTALE_").lower() for name in image.variables} <= set(Settings.model_fields)


@of_each
def test_the_base_is_one_python_of_one_version_and_the_image_runs_as_nobody(image: Dockerfile) -> None:
    (base,) = re.findall(r"^ARG PYTHON=python:(\S+)-slim-bookworm$", image.path.read_text(), re.MULTILINE)
    assert len(Version(base).release) == 3 and Version(base).release[:2] == sys.version_info[:2]
    assert {given.split()[0] for given in image.all("FROM")} <= {"${PYTHON}", "compiler", "dependencies"}
    words = [word for word, _ in image.stages[-1]]
    assert words.index("USER") < words.index("HEALTHCHECK") < words.index("CMD")


def test_the_images_differ_in_what_they_install_alone() -> None:
    """Three files, because an image is what people build; the parts they share say the same."""
    for stage in ("wheel", "sbom"):
        said = {
            re.sub(rf"telltale-{image.name}\b", "telltale", str(stage_of))
            for image in IMAGES
            for stage_of in image.stages
            if stage_of[0][1].endswith(f" AS {stage}")
        }
        assert len(said) == 1, stage


@contextmanager
def started(
    image: Dockerfile, python: Path, here: Path, ready: str = WORKER_IS_READY, **variables: str
) -> Iterator[dict[str, str]]:
    """The image's command, in its environment, in an empty folder, once it has said `ready` and is found healthy; gives
    what it was told."""
    told = {name: value for name, value in os.environ.items() if name.startswith("TELLTALE_")}
    told |= {**image.variables, "PATH": f"{python.parent}:/usr/bin:/bin", "HOSTNAME": socket.gethostname()}
    told |= {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "HOME": str(here), **variables}
    log = here.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(with_port(image.command, told), cwd=here, env=told, stdout=output, stderr=output)
    try:
        wait_for(ready, log, process)
        # As Docker asks, again and again: one answer may be late.
        wait_until(lambda: healthy(image, told, here), f"The health check of {image.name}", START_S)
        yield told
    finally:
        process.terminate()
        process.wait(START_S)


def with_port(command: list[str], told: dict[str, str]) -> list[str]:
    """A command of the image, at a port of this machine that is free in place of its own."""
    return [word.replace("8000", told.get("PORT", "8000")) for word in command]


def healthy(image: Dockerfile, told: dict[str, str], here: Path) -> bool:
    """What the image's health check says."""
    asked = subprocess.run(with_port(image.health, told), cwd=here, env=told, capture_output=True, text=True)
    return asked.returncode == 0


def wait_for(said: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    """Return once the log of a process says so."""
    deadline = time.monotonic() + START_S
    while said not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty folder, in place of the image's own."""
    made = tmp_path / "here"
    made.mkdir()
    return made


def bare(image: Dockerfile, wheel: Path, tmp_path: Path) -> Path:
    """The interpreter of an environment with what the image installs, which lacks what it should, and imports."""
    python = packaged.environment(tmp_path / image.name, wheel, image.extras)
    found = f"[name for name in {WITHOUT[image.name]} if importlib.util.find_spec(name)]"
    code = f"import importlib.util, {ENTRY_POINTS[image.name]}; print({found})"
    assert packaged.run(python, "-c", code, cwd=tmp_path) == "[]\n"
    return python


def test_the_api_image_serves_pages_and_knows_whether_it_lives(
    wheel: Path, tmp_path: Path, here: Path, db: Engine, redis_url: str, bucket: str
) -> None:
    (image,) = [image for image in IMAGES if image.name == "api"]
    python = bare(image, wheel, tmp_path)
    port = str(free_port())
    with started(image, python, here, "Listening at", PORT=port) as told:
        for path in ("/dashboard/sign-in", "/docs", "/openapi.json"):
            # It listens before it has loaded.
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=START_S) as answer:
                assert answer.status == 200
        assert "/site-packages/" in packaged.run(python, "-c", "import api; print(api.__file__)", cwd=here)
    assert not healthy(image, told, here)
    assert list(here.iterdir()) == [], "its root is read-only"


def test_the_api_is_called_well_while_no_thread_is_free_to_answer(here: Path) -> None:
    """As when each of them waits for a database that hangs: to start it anew would mend nothing."""
    (image,) = [image for image in IMAGES if image.name == "api"]
    told = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        told["PORT"] = str(silent.getsockname()[1])
        assert healthy(image, told, here)
    assert not healthy(image, told, here), "nothing listens there any more"


def test_the_io_image_prepares_the_database_delivers_and_makes_backups(
    wheel: Path, tmp_path: Path, here: Path, db: Engine, redis_url: str, bucket: str
) -> None:
    (image,) = [image for image in IMAGES if image.name == "io"]
    python = bare(image, wheel, tmp_path)
    # As compose's `migrate`: the demo model becomes champion without the packages that run it.
    packaged.run(python, "-m", "infra.preparation", cwd=here)
    with transaction() as session:
        assert model_versions.champion(session) is not None
    with started(image, python, here) as told:
        assert not healthy(image, told | {"HOSTNAME": "elsewhere"}, here), "it asks for its own worker"
    assert list(here.iterdir()) == [], "its root is read-only"
    with transaction() as session:
        make_tenant(session, "acme")
    # With no pg_dump but its own, and without the keys that stored secrets are encrypted with.
    told = {name: value for name, value in told.items() if name != "TELLTALE_SECRET_KEYS"}
    made = subprocess.run(
        [python.parent / "telltale", "backup", tmp_path / "backups", "--json"],
        env=told | {"PATH": str(python.parent)},
        cwd=here,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0 and json.loads(made.stdout)["missing"] == 0, made.stderr


def test_the_gpu_image_judges(wheel: Path, tmp_path: Path, here: Path, db: Engine, redis_url: str, bucket: str) -> None:
    (image,) = [image for image in IMAGES if image.name == "gpu"]
    ensure_champion(settings())
    with started(image, bare(image, wheel, tmp_path), here):
        pass
    assert list(here.iterdir()) == [], "its root is read-only"


def test_the_list_of_an_image_s_packages_has_them_all(wheel: Path, tmp_path: Path) -> None:
    """The command of the stage `sbom`, as it stands there."""
    (image,) = [image for image in IMAGES if image.name == "api"]
    python = packaged.environment(tmp_path / "venv", wheel, image.extras)
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    (asked,) = re.findall(r"/cyclonedx/bin/(cyclonedx-py .+ /venv/bin/python);", " ".join(image.all("RUN")))
    words = [word.replace("/venv/bin/python", str(python)) for word in shlex.split(asked)]
    words = [word.replace("/sbom", str(tmp_path)) for word in words]
    packaged.run(Path(sys.executable).with_name(words[0]), *words[1:], cwd=REPOSITORY)
    listed = json.loads((tmp_path / "telltale-api.cdx.json").read_text())
    assert listed["bomFormat"] == "CycloneDX"
    assert listed["metadata"]["component"]["name"] == "telltale"
    names = {component["name"].lower().replace("_", "-") for component in listed["components"]}
    assert {folder.name.partition("-")[0].lower().replace("_", "-") for folder in packages.glob("*.dist-info")} <= {
        *names,
        "telltale",
    }
