"""What we run that others made: pinned, from nowhere but the package index, as nobody, on disks that cannot be written.

That pickled weights are refused, that no code of a checkpoint runs, and that hub revisions are whole commits is in
tests/model/test_checkpoint.py and tests/model/finetune/test_adapters.py; `make check` runs bandit.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OURS = {name: service for name, service in COMPOSE.items() if service["image"].startswith("telltale-")}
DOCKERFILES = sorted((ROOT / "infra" / "docker").glob("*.Dockerfile"))
PACKAGES = ("api", "benchmarks", "infra", "migrations", "model", "moderation", "workers")
ORDINARY_USERS = 10_000  # and above: nobody of the host's
NO_NEW_PRIVILEGES = "no-new-privileges:true"


@pytest.mark.parametrize("name", OURS)
def test_what_is_ours_writes_to_its_volumes_and_to_memory_alone(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == [NO_NEW_PRIVILEGES]
    in_memory = [place.partition(":")[0] for place in service["tmpfs"]]
    # A dump passes through /tmp, and is too large for memory.
    assert in_memory == ["/tmp"] or "scratch:/tmp" in service["volumes"]
    assert not {"privileged", "cap_add", "user", "network_mode", "pid"} & set(service)


@pytest.mark.parametrize("name", COMPOSE)
def test_nothing_gains_rights_or_reaches_the_host(name: str) -> None:
    service = COMPOSE[name]
    assert NO_NEW_PRIVILEGES in service["security_opt"] and "privileged" not in service
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))
    # On loopback, unless whoever runs it says otherwise.
    assert all("-127.0.0.1:" in port for port in service.get("ports", []))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_as_an_ordinary_user_and_install_what_is_pinned(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    (user,) = [int(line.split()[1]) for line in lines if line.startswith("USER")]
    assert user >= ORDINARY_USERS
    assert lines.index(f"USER {user}") > max(place for place, line in enumerate(lines) if line.startswith("FROM"))
    commands = re.split(r"&&|;|\n", path.read_text().replace("\\\n", " "))
    installs = [command for command in commands if re.search(r"\bpip\b.* install ", command)]
    assert len(installs) >= 3
    # What may not ask any index needs no pins.
    assert all("--constraint constraints.txt" in install or "--no-index" in install for install in installs), installs
    # The health check asks the container itself.
    assert not re.search(r"\bADD\b|curl|wget|https?:(?!//127\.0\.0\.1)", path.read_text())


def test_every_image_of_compose_is_built_here_or_pinned() -> None:
    assert {Path(service["build"]["dockerfile"]).name for service in OURS.values()} == {
        file.name for file in DOCKERFILES
    }
    for name, service in COMPOSE.items():
        assert name in OURS or re.search(r":v?\d", service["image"]), name


def test_every_dependency_is_pinned_and_comes_from_the_index() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*==([0-9]+!)?[0-9][\w.]*", pin) for pin in pins), pins
    pinned = {pin.partition("==")[0] for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in (project["dependencies"], *project["optional-dependencies"].values()):
        for requirement in wanted:
            name = re.split(r"[\[<>=]", requirement)[0]
            assert name == "telltale" or name in pinned, requirement


@cache
def calls() -> Sequence[tuple[Path, ast.Call, dict[str, Any]]]:
    """Every call in our packages, with its keywords."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    nodes = [(path, node) for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    return [
        (path, node, {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg})
        for path, node in nodes
        if isinstance(node, ast.Call)
    ]


def test_no_call_trusts_code_of_others_or_takes_whatever_a_hub_has_now() -> None:
    """Adapters' configurations are read from a folder that was fetched already, by its digest."""
    loads = 0
    for path, call, keywords in calls():
        trusted = keywords.get("trust_remote_code")
        assert trusted is None or (isinstance(trusted, ast.Constant) and trusted.value is False), (path, call.lineno)
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        of_a_hub = name == "from_pretrained" and path.name != "adapters.py"
        if of_a_hub or name in ("hf_hub_download", "snapshot_download"):
            loads += 1
            assert {"revision", "trust_remote_code"} <= set(keywords), (path, call.lineno)
    assert loads >= 4


def test_only_the_demo_s_recipe_and_the_sandbox_unpickle() -> None:
    """The one its own file of the same run, the other what its own processes say."""
    found = set()
    for path, call, keywords in calls():
        name = ast.unparse(call.func)
        weights_only = keywords.get("weights_only")
        if name in ("pickle.load", "pickle.loads") or (weights_only and ast.unparse(weights_only) != "True"):
            found.add(str(path.relative_to(ROOT)))
        assert name not in ("torch.load", "joblib.load", "numpy.load", "np.load") or path.name == "build.py", path
    assert found == {"moderation/sandbox.py", "model/demo/build.py"}
