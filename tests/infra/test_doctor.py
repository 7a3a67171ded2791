"""`telltale doctor`: each look at something that is well and at something that is not, and what follows from what.

Against real services; what a whole stack shows when something in it stops is in tests/infra/test_up.py.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from sqlalchemy import Engine, text

from infra.cli import telltale
from infra.demo.server import Server
from infra.doctor import answers, champion, examination, processes, services
from infra.doctor.finding import Check, Finding, State, well
from infra.services import wait_until
from moderation import checkpoints, dispatch
from moderation.db import listener, transaction
from moderation.errors import ConfigurationError
from moderation.settings import Settings, settings
from moderation.storage import Storage
from moderation.tables import TrainingRun
from moderation.vocabulary import RunStatus
from tests.factories import make_endpoint, make_tenant, make_version
from tests.mailbox import QUOTED, serving, sign_in
from tests.moderation.test_sealing import key, with_keys
from workers.celery_app import BEAT_SIGN, BEAT_SIGN_KEPT_S
from workers.relay import Relay

__all__ = ["with_keys"]

PATIENCE_S = 60.0
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers at all may take as long as a busy machine does."""
    for module in (answers, services, processes):
        monkeypatch.setattr(module, "TIMEOUT_S", PATIENCE_S)


def rules(**changed: object) -> Settings:
    return settings().model_copy(update=changed)


def found(look: Callable[[Settings], Finding], **changed: object) -> Finding:
    """What a look finds, errors included, by itself, however long it takes."""
    check = Check("it", look, "Mend it.")
    (finding,) = examination.examine(rules(**changed), [check], limit_s=PATIENCE_S).values()
    return finding


class Answering(BaseHTTPRequestHandler):
    """Says of each path what it is told to."""

    answers: dict[str, Any]

    def do_GET(self) -> None:
        body = json.dumps(self.answers.get(self.path, {})).encode()
        self.send_response(200 if self.path in self.answers else 503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing of it is looked at."""


def answering(answers: dict[str, Any]) -> Server:
    return Server(type("Handler", (Answering,), {"answers": answers}))


def test_postgres_and_its_schema(db: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(services.postgres).said.startswith("PostgreSQL 18.")
    assert found(services.schema).state is State.WELL
    with db.begin() as connection:
        newest = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    try:
        for at, state, said in (
            ("0009", State.BROKEN, "Not run yet: 0010 (retention), 0011 (oldest), 0012 (put aside)"),
            ("9999", State.DOUBTFUL, "The schema is at 9999, of a newer Telltale than this program"),
        ):
            with db.begin() as connection:
                connection.execute(text("UPDATE alembic_version SET version_num = :at"), {"at": at})
            finding = found(services.schema)
            assert (finding.state, finding.said[: len(said)]) == (state, said)
    finally:
        with db.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :at"), {"at": newest})
    monkeypatch.setattr(services, "POSTGRES", 99)
    assert found(services.postgres).mend == "Upgrade the server to PostgreSQL 99 or later."


def test_secret_keys_must_open_what_is_stored(db: Engine, with_keys: Callable[[str], None]) -> None:
    with_keys(key(1))
    with transaction() as session:
        endpoint = make_endpoint(session, make_tenant(session))
    assert found(services.keys).said == "1 in TELLTALE_SECRET_KEYS, for 1 stored secrets."
    with transaction() as session:
        (secret,) = endpoint.secrets
        altered = secret[:-4] + ("AAA=" if secret[-4:] != "AAA=" else "BBB=")
        session.merge(endpoint).secrets = [altered]
    assert "was altered in the database" in found(services.keys).said
    with_keys(key(2))
    assert "which TELLTALE_SECRET_KEYS does not hold" in found(services.keys).said


def test_redis(redis_url: str) -> None:
    assert found(services.redis).said.startswith("Valkey 9.")
    nobody = found(services.redis, redis_url="redis://127.0.0.1:9/0")
    assert nobody.state is State.BROKEN and "refused" in nobody.said
    assert "invalid username-password" in found(services.redis, redis_url=redis_url.replace("://:", "://:x")).said


def test_the_object_store_and_its_public_address(bucket: str) -> None:
    assert found(services.object_store).state is State.WELL
    assert found(services.public_links).state is State.WELL
    assert Storage(settings()).listed("probes/", after="", limit=1) == [], "what was put to see is deleted again"
    assert "has no bucket 'nowhere'" in found(services.object_store, s3_bucket="nowhere").said
    assert "refused" in found(services.object_store, s3_secret_key="another").said
    assert found(services.public_links, s3_public_url=NOBODY).said == "127.0.0.1:9 does not answer."
    with answering({}) as other:
        assert "is answered with status 503" in found(services.public_links, s3_public_url=other.url).said


def test_a_bucket_that_keeps_what_is_erased_is_doubted(bucket: str) -> None:
    store = Storage(rules(s3_bucket="keeper"))
    store.ensure_bucket()
    for status, state in (("Enabled", State.DOUBTFUL), ("Suspended", State.WELL)):
        store._client.put_bucket_versioning(Bucket="keeper", VersioningConfiguration={"Status": status})  # type: ignore[typeddict-item]
        assert found(services.object_store, s3_bucket="keeper").state is state


@pytest.mark.parametrize(
    ("ahead_s", "state", "said"),
    [(0, State.WELL, "All"), (-20, State.DOUBTFUL, "20 s behind"), (900, State.BROKEN, "900 s ahead of")],
)
def test_clocks(bucket: str, monkeypatch: pytest.MonkeyPatch, ahead_s: int, state: State, said: str) -> None:
    assert found(services.clocks).state is State.WELL
    monkeypatch.setattr(Storage, "clock", lambda self: datetime.now(UTC) + timedelta(seconds=ahead_s - 0.5))
    finding = found(services.clocks)
    assert finding.state is state and said in finding.said


def test_a_mail_server_is_greeted_and_sent_nothing() -> None:
    assert found(services.mail_server).state is State.UNUSED
    with serving(authenticator=sign_in, auth_require_tls=False) as box:
        refused = found(services.mail_server, **chosen(box.rules()))
        assert refused.state is State.WELL, refused
        assert box.taken == []
        assert "no STARTTLS" in found(services.mail_server, **chosen(box.rules(user=QUOTED))).said
    assert found(services.mail_server, **chosen(box.rules())).state is State.BROKEN


def chosen(given: Settings) -> dict[str, object]:
    return {"smtp_url": given.smtp_url, "mail_from": given.mail_from}


def test_the_folder_of_retraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "ROOM_BYTES", 1)
    assert found(services.retraining_folder, retrain_folder=tmp_path / "not yet").state is State.WELL
    elsewhere = found(services.retraining_folder, retrain_folder=tmp_path / "on" / "another")
    assert elsewhere.state is State.UNKNOWN and "not on this machine" in elsewhere.said
    monkeypatch.setattr(services, "ROOM_BYTES", 2**70)
    assert found(services.retraining_folder, retrain_folder=tmp_path).state is State.DOUBTFUL


def test_a_champion_needs_files_and_golden_outputs(db: Engine, bucket: str, tmp_path: Path) -> None:
    assert found(champion.champion).said == "No model version is champion."
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("weights", "golden.png"):
        (folder / name).write_text(name)
    golden = [{"image": "golden.png"}]

    def of(place: object, golden: list[dict[str, str]] = golden) -> Finding:
        with db.begin() as connection:
            connection.execute(text("DELETE FROM model_versions"))
        with transaction() as session:
            version = make_version(session)
            version.checkpoint, version.manifest = str(place), {**version.manifest, "golden": golden}
        return found(champion.champion)

    assert of("demo").state is of(folder).state is State.WELL
    assert "has no golden outputs" in of(folder, []).said
    assert of(tmp_path / "elsewhere").state is State.UNKNOWN
    stored = checkpoints.store(Storage(settings()), folder)
    assert of(stored).state is State.WELL
    Storage(settings()).delete(f"adapters/{stored.removeprefix(checkpoints.PLACE)}/weights")
    assert of(stored).said.endswith("there is no more: weights.")
    (folder / "golden.png").unlink()
    assert of(folder).said.endswith("there is no more: golden.png.")


def test_vllm_must_serve_the_champion(db: Engine) -> None:
    assert found(champion.vllm).state is State.UNUSED
    with transaction() as session:
        name = make_version(session, "mine").name
    card = {"data": [{"id": f"{name}:bfloat16"}]}
    with answering({"/health": {}, "/v1/models": card}) as server:
        assert found(champion.vllm, vllm_url=server.url).state is State.WELL
    with answering({"/health": {}, "/v1/models": {"data": [{"id": "other:bfloat16"}]}}) as server:
        assert f"not the champion {name}" in found(champion.vllm, vllm_url=server.url).said
    with answering({}) as server:
        assert "/health answers with status 503" in found(champion.vllm, vllm_url=server.url).said
    assert found(champion.vllm, vllm_url=NOBODY).said == "127.0.0.1:9 does not answer."


def test_the_api_is_asked_whether_it_can_serve() -> None:
    ready = {"model": {"version": "v1", "kind": "demo"}}
    with answering({"/health/live": {}, "/health/ready": ready}) as server:
        assert found(processes.api, public_url=server.url).state is State.WELL
        assert "demo model, not FakeVLM" in found(processes.readiness, public_url=server.url).said
    with answering({}) as server:
        assert "status 503" in found(processes.api, public_url=server.url).said
        assert "cannot serve" in found(processes.readiness, public_url=server.url).said


def test_a_public_address_of_this_machine_may_be_its_hosts_unless_a_stack_runs_here(
    bucket: str, tmp_path: Path
) -> None:
    """As in a container of compose, whose public addresses are by default its host's."""
    targets, names = tmp_path / "metrics.json", ("public links", "api", "api readiness")
    nobody: dict[str, object] = {"public_url": NOBODY, "s3_public_url": "http://localhost:9"}

    def states() -> set[State]:
        looks = {check.name: check.look for check in examination.checks(targets)}
        return {found(looks[name], **nobody).state for name in names}

    assert states() == {State.UNKNOWN}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (api,) = [check for check in examination.checks(targets) if check.name == "api"]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(answers, "TIMEOUT_S", 0.1)
            hanging = found(api.look, public_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert hanging.state is State.BROKEN, "somebody is there, and does not answer"
    targets.write_text("[]")
    assert states() == {State.BROKEN}


def test_a_relay_is_known_by_its_connection_and_its_signs(db: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    # That of an earlier test may have been killed just now.
    wait_until(lambda: "None is connected" in found(processes.relay).said, "the absence of a relay")
    with listener() as bell:
        assert found(processes.relay).said == "1 at work."
        time.sleep(0.3)
        with transaction() as session:
            before = dispatch.last_signs(session)
        began = time.monotonic()
        assert Relay(settings()).turn(bell) == 0
        with transaction() as session:
            after = dispatch.last_signs(session)
        since = time.monotonic() - began
        assert before[0] >= 0.3 and after[0] < since + 0.1, "a turn is a sign of life, though nothing is due"
        monkeypatch.setattr(processes, "RELAY_SILENT_S", 0.0)
        assert found(processes.relay).said.endswith("it hangs.")


def test_beat_is_known_by_its_signs(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set(BEAT_SIGN, 1, ex=BEAT_SIGN_KEPT_S)
        assert found(processes.beat).state is State.WELL
        client.expire(BEAT_SIGN, BEAT_SIGN_KEPT_S - 240)
        assert found(processes.beat).said.startswith("No sign of life for 4 minutes")
        client.delete(BEAT_SIGN)
    for every_s, state in ((10**6, State.DOUBTFUL), (0, State.BROKEN)):
        monkeypatch.setattr(processes, "CLEAN_UP_EVERY_S", every_s)
        assert found(processes.beat).state is state, "Redis may have been started just now, or long ago"


def test_a_run_that_nobody_takes(db: Engine) -> None:
    assert found(processes.retraining).said == "No run was asked for yet."
    with transaction() as session:
        run = TrainingRun(status=RunStatus.ASKED, asked_by="test")
        session.add(run)
    assert found(processes.retraining).state is State.WELL
    with transaction() as session:
        session.merge(run).created_at = datetime.now(UTC) - timedelta(minutes=11)
    assert found(processes.retraining).said.endswith("is taken by no worker.")
    with transaction() as session:
        session.merge(run).status = RunStatus.FAILED
    assert found(processes.retraining).state is State.DOUBTFUL


def test_workers_are_asked_once_for_all_roles(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def takers(broker_url: str) -> dict[str, set[str]]:
        asked.append(broker_url)
        return {"screening": {"screening@a", "screening@b"}, "delivery": {"delivery@a"}}

    monkeypatch.setattr(processes, "_takers", takers)
    workers = processes.Workers()
    assert found(workers.of(["screening"])).said == "screening@a, screening@b answer."
    assert found(workers.of(["delivery", "reviews"])).said == "No worker answers that takes from the queue reviews."
    assert asked == [redis_url]


def test_no_worker_answers_where_none_runs(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ANSWERS_WITHIN_S", 0.1)
    assert found(processes.Workers().of(["screening"])).state is State.BROKEN


def test_metrics(tmp_path: Path) -> None:
    targets = tmp_path / "metrics.json"
    assert found(processes.metrics(targets)).state is State.UNUSED
    assert found(processes.metrics(targets), metrics_port=9464).state is State.UNKNOWN
    with answering({"/metrics": {}}) as server:
        served = [("api", server.host), ("relay", "127.0.0.1:9")]
        targets.write_text(json.dumps([{"targets": [at], "labels": {"job": name}} for name, at in served]))
        assert found(processes.metrics(targets)).said == "None from relay: it hangs, or does not run."


def test_what_follows_from_something_broken_is_not_called_broken() -> None:
    def raises(_: Settings) -> Finding:
        raise ConfigurationError("No.")

    checks = [Check("a", raises, "Mend a."), Check("b", raises, "Mend b.", ("a",))]
    checks += [Check("c", lambda _: well("Fine."), "", ("a",)), Check("d", raises, "Mend d.")]
    answers = examination.examine(settings(), checks)
    assert answers["a"] == Finding(State.BROKEN, "No.", "Mend a.")
    assert (answers["b"].state, answers["b"].mend) == (State.UNKNOWN, None) and "a is mended" in answers["b"].said
    assert answers["c"].state is State.WELL and answers["d"].state is State.BROKEN


def test_what_hangs_holds_up_nothing_else() -> None:
    hangs, released = threading.Event(), []

    def hang(_: Settings) -> Finding:
        released.append(hangs.wait(60))
        return well("late")

    checks = [Check("hangs", hang, "Mend it."), Check("quick", lambda _: well("Fine."), "")]
    began = time.monotonic()
    found = examination.examine(settings(), checks, limit_s=1)
    assert time.monotonic() - began < 55
    hangs.set()
    assert found["hangs"].said == "No answer within 1 s." and found["quick"].state is State.WELL


def test_every_need_is_a_check(tmp_path: Path) -> None:
    made = examination.checks(tmp_path)
    names = [check.name for check in made]
    assert len(set(names)) == len(names)
    assert {need for check in made for need in check.needs} <= set(names)


def test_the_command_says_what_to_do_and_fails_where_something_is_broken(
    services: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    some = [Check("postgres", lambda _: well("It answers."), ""), Check("relay", lambda _: 1 / 0, "Start it.")]
    monkeypatch.setattr(examination, "checks", lambda targets: some[:1])
    fine = CliRunner().invoke(telltale, ["--data", str(tmp_path), "doctor"])
    assert fine.exit_code == 0 and "Nothing is broken" in fine.output
    monkeypatch.setattr(examination, "checks", lambda targets: some)
    shown = CliRunner().invoke(telltale, ["--data", str(tmp_path), "doctor"])
    assert shown.exit_code == 1 and "✗  relay" in shown.output and "→ Start it." in shown.output
    told = json.loads(CliRunner().invoke(telltale, ["--data", str(tmp_path), "doctor", "--json"]).stdout)
    assert told["well"] is False
    assert told["checks"][-1] == {"name": "relay", "state": "broken", "said": "division by zero", "mend": "Start it."}


def test_settings_that_are_wrong_are_the_first_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TELLTALE_BATCH_SIZE", "many")
    settings.cache_clear()
    shown = CliRunner().invoke(telltale, ["--data", str(tmp_path), "doctor"])
    monkeypatch.undo()
    settings.cache_clear()
    assert shown.exit_code == 1 and "✗  settings  TELLTALE_BATCH_SIZE: Input should be a valid integer" in shown.output


def test_a_setting_that_nobody_reads_is_doubtful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(examination, "checks", lambda targets: [])
    monkeypatch.setenv("TELLTALE_BATCHSIZE", "4")
    shown = CliRunner().invoke(telltale, ["--data", str(tmp_path), "doctor"])
    assert shown.exit_code == 0
    assert "!  settings  TELLTALE_BATCHSIZE is no setting; did you mean TELLTALE_BATCH_SIZE?" in shown.output
