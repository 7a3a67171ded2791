"""Backups on real services: whole or refused, copied once, proven, and what was erased stays erased."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, func, select, text

from infra.backups import contents, database, making
from infra.backups.places import Bucket, Folder, Place
from infra.cli import INTERRUPTED, telltale
from infra.doctor import services as doctor
from moderation import accounts, checkpoints, endpoints, erasure, schema, sources, tenants
from moderation.db import engine, listener, new_id, transaction, turn
from moderation.errors import ConfigurationError, NotFound, Unauthenticated
from moderation.settings import settings
from moderation.storage import Storage, rendition_key, report_key, snapshot_key
from moderation.tables import Case, Endpoint, Event, Image, ModelVersion, SignIn, Source, Tenant, TrainingRun, User
from moderation.vocabulary import CaseStatus, EventType, ModelStage, RunStatus
from tests.conftest import ServiceRun, worker_of
from tests.factories import make_case, make_endpoint, make_image, make_key, make_tenant, take_case
from tests.infra import test_kubernetes as kubernetes
from tests.infra.fresh import elsewhere, empty
from tests.mailbox import certificate
from tests.moderation.test_sealing import key, with_keys
from tests.platforms import make_source

__all__ = ["with_keys"]

Fresh = Callable[[], AbstractContextManager[Mapping[str, str]]]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(telltale, [str(argument) for argument in arguments])


def done(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    return " ".join(result.stderr.split())


@pytest.fixture
def fresh(services: ServiceRun, request: pytest.FixtureRequest) -> Fresh:
    return partial(elsewhere, services, worker_of(request.config))


@pytest.fixture
def acme(db: Engine, services: ServiceRun, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    """A platform in an otherwise empty database and bucket."""
    empty(services, settings().s3_bucket)
    Storage(settings()).ensure_bucket()
    with transaction() as session:
        tenant = make_tenant(session, "acme")
    yield tenant


def stored(tenant: Tenant, content: bytes, status: CaseStatus = CaseStatus.QUEUED) -> Image:
    """An image with its bytes in the store, and a case of it."""
    with transaction() as session:
        image = make_image(session, tenant, content)
        make_case(session, tenant, status, image=image)
    Storage(settings()).put(image.s3_key, content, image.media_type)
    return image


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, services: ServiceRun, tmp_path: Path) -> Iterator[Place]:
    if request.param == "folder":
        yield Folder(tmp_path / "backups")
        return
    bucket = f"backups-{worker_of(request.config)}"
    store = Storage(settings().model_copy(update={"s3_bucket": bucket}))
    store.ensure_bucket()
    yield Bucket(store, "some/where/")
    empty(services, bucket)


def test_a_place_keeps_files_by_name(place: Place, tmp_path: Path) -> None:
    """The same of a folder and of a bucket."""
    (tmp_path / "large").write_bytes(b"0123456789" * 1_000_000)  # over what is sent in one part
    place.put("a/one", b"1")
    place.put_file("a/b/two", tmp_path / "large")
    place.put("c", b"3")
    place.put("c", b"4")
    assert sorted(place.names("a/")) == ["a/b/two", "a/one"] and list(place.names("x/")) == []
    assert (place.get("c"), place.has("c"), place.has("d"), place.has("a")) == (b"4", True, False, False)
    place.get_file("a/b/two", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "large").read_bytes()
    for read in (place.get, lambda name: place.get_file(name, tmp_path / "none")):
        with pytest.raises(NotFound):
            read("a/none")
    place.delete(["a/one", "a/none"])
    assert list(place.names("a/")) == ["a/b/two"]


@pytest.mark.parametrize("place", ["bucket"], indirect=True)
def test_the_jobs_of_the_cluster_make_keep_and_prove_backups(
    acme: Tenant, place: Place, request: pytest.FixtureRequest
) -> None:
    """Their commands, as they stand in the manifests, told what the example's ConfigMap tells them."""
    stored(acme, b"one", CaseStatus.IN_REVIEW)
    destination = f"s3://backups-{worker_of(request.config)}/some/where"
    told = {"$(DESTINATION)": destination, "$(ENDPOINT_URL)": "", "$(REGION)": "", "$(KEEP)": "14"}
    said = {}
    for job in ("backup", "backup-withdrawals", "backup-verify"):
        _, *words = kubernetes.command(kubernetes.ours("production")[job])
        said[job] = done(*(told.get(word, word) for word in words))
    assert contents.backups_of(place) == [said["backup"]["backup"]]
    assert said["backup-withdrawals"] | {"known_until": ""} == {"known_until": "", "withdrawals": 0}
    assert (said["backup-verify"]["objects"], said["backup-verify"]["damaged"]) == (1, 0)


def test_only_what_is_new_is_copied_and_all_of_it_comes_back(acme: Tenant, fresh: Fresh, tmp_path: Path) -> None:
    first = stored(acme, b"one", CaseStatus.IN_REVIEW)
    assert done("backup", tmp_path)["copied"] == 1
    second = stored(acme, b"two")
    made = later(tmp_path)
    assert (made["objects"], made["copied"], made["cases"]) == (2, 1, 2)
    with transaction() as session:
        events = session.scalars(select(func.count(Event.id))).one()
    with fresh():
        restored = done("restore", tmp_path)
        assert (restored["backup"], restored["objects"]) == (made["backup"], 2)
        store = Storage(settings())
        for image, content in ((first, b"one"), (second, b"two")):
            assert store.get(image.s3_key, max_bytes=9) == content
            assert store.head(image.s3_key).media_type == image.media_type
        with transaction() as session:
            assert session.scalars(select(func.count(Event.id))).one() == events + 1
            (said,) = session.scalars(select(Event.after).where(Event.type == EventType.SERVICE_RESTORED))
        assert said["backup"] == made["backup"]


def test_every_kind_of_object_comes_back(acme: Tenant, fresh: Fresh, tmp_path: Path) -> None:
    store, image = Storage(settings()), stored(acme, b"one", CaseStatus.IN_REVIEW)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "weights").write_bytes(b"weights")
    place, snapshot = checkpoints.store(store, adapter), snapshot_key("a" * 64)
    with transaction() as session:
        session.add(ModelVersion(name="ours", checkpoint=place, digest="d", manifest={}, stage=ModelStage.CHALLENGER))
        session.get_one(Image, image.id).rendition_key = rendition_key(acme.id, image.id)
        run_id = new_id()
        session.add(TrainingRun(id=run_id, status=RunStatus.KEPT, asked_by="test", snapshot_key=snapshot))
        session.add(TrainingRun(status=RunStatus.FAILED, asked_by="test"))  # which made no report
    kept = {rendition_key(acme.id, image.id): b"shown", snapshot: b"{}", report_key(run_id): b"<p>"}
    for name, content in kept.items():
        store.put(name, content, "application/json")
    made = done("backup", tmp_path / "backups")
    assert (made["objects"], made["missing"]) == (6, 0)
    (outside,) = made["checkpoints_elsewhere"]
    assert "/nowhere/" in outside, "the champion's checkpoint is a folder"
    store.put(snapshot, b"{tombstone}", "application/json")
    assert later(tmp_path / "backups")["copied"] == 2, "what may have been written anew is copied anew"
    with fresh():
        done("restore", tmp_path / "backups")
        store = Storage(settings())
        assert (
            checkpoints.fetch(store, place.removeprefix("stored:"), tmp_path) / "weights"
        ).read_bytes() == b"weights"
        for name, content in (kept | {snapshot: b"{tombstone}"}).items():
            assert store.get(name, max_bytes=99) == content


def later(place: Path, *options: str) -> Any:
    """A backup made as if no other had been made in this second: they are called by their time."""
    for manifest in place.glob("backups/*/manifest.json"):
        _age(manifest)
    return done("backup", place, *options)


def _age(manifest: Path) -> None:
    said = json.loads(manifest.read_text())
    made_at = contents.datetime.fromisoformat(said["made_at"]) - timedelta(days=1)
    manifest.write_text(json.dumps(said | {"made_at": made_at.isoformat()}))
    manifest.parent.rename(manifest.parent.with_name(f"{made_at.astimezone(contents.UTC):%Y%m%dT%H%M%SZ}"))


def test_what_was_in_flight_is_put_in_order(acme: Tenant, fresh: Fresh, tmp_path: Path) -> None:
    image = stored(acme, b"under way")
    with transaction() as session:
        case = session.scalars(select(Case).where(Case.image_id == image.id)).one()
        take_case(session, case, timedelta(days=1))
        endpoint = make_endpoint(session, acme)
        endpoint.failing_since = case.created_at - timedelta(days=4)
        user = tenants.create_user(session, "ann@example.com", "correct horse battery")
        session.add(SignIn(user_id=user.id, token_sha256="0", address="::1", browser="", expires_at=case.created_at))
    done("backup", tmp_path)
    with fresh():
        in_flight = done("restore", tmp_path)["in_flight"]
        assert in_flight == {"cases under way": 1, "training runs": 0, "endpoints that failed": 1, "sign-ins ended": 1}
        with transaction() as session:
            again = session.get_one(Case, case.id)
            assert (again.status, again.attempts, again.lease_until) == (CaseStatus.QUEUED, 0, None)
            assert session.get_one(Endpoint, endpoint.id).failing_since is None
            assert endpoints.secrets_of(session.get_one(Endpoint, endpoint.id)) == endpoints.secrets_of(endpoint)


def test_what_was_taken_back_since_is_taken_back_again(acme: Tenant, fresh: Fresh, tmp_path: Path) -> None:
    image, other = stored(acme, b"erased"), stored(acme, b"stays")
    with transaction() as session:
        token, kept = make_key(session, acme), make_key(session, acme)
        endpoint, again = make_endpoint(session, acme), make_endpoint(session, acme)
        source = sources.create(session, make_source(acme))
        tenants.change_tenant(session, acme.id, {"allow_training": True})
        user = tenants.create_user(session, "ann@example.com", "correct horse battery")
    done("backup", tmp_path)
    with transaction() as session:
        erasure.erase(session, acme.id, image.id, actor="test", request_id=None)
        tenants.revoke_key(session, token.split("_")[1])
        accounts.disable(session, session.get_one(User, user.id), actor="test")
        tenants.change_tenant(session, acme.id, {"allow_training": False})
        for each in (endpoint, again):
            endpoints.disable(session, session.get_one(Endpoint, each.id), "test")
        sources.disable(session, session.get_one(Source, source.id), actor="test")
    assert done("backup", tmp_path, "--withdrawals")["withdrawals"] == 7
    with transaction() as session:
        endpoints.enable(session, session.get_one(Endpoint, again.id))
    assert done("backup", tmp_path, "--withdrawals")["withdrawals"] == 6
    with fresh():
        restored = done("restore", tmp_path)
        once = ("image", "key", "account", "consent", "endpoint", "source")
        assert restored["withdrawn_again"] == {"member": 0} | dict.fromkeys(once, 1)
        store = Storage(settings())
        assert not store.exists(image.s3_key) and store.exists(other.s3_key)
        with transaction() as session:
            assert session.get_one(Image, image.id).forgotten_at is not None
            assert session.get_one(User, user.id).disabled_at is not None
            assert not session.get_one(Tenant, acme.id).allow_training
            assert session.get_one(Endpoint, endpoint.id).disabled_at is not None
            assert session.get_one(Endpoint, again.id).disabled_at is None
            assert session.get_one(Source, source.id).disabled_at is not None
        tenants.authenticate(kept)
        with pytest.raises(Unauthenticated):
            tenants.authenticate(token)
        # This database was restored from before the list: what it does not know of stays in it.
        assert done("backup", tmp_path, "--withdrawals")["withdrawals"] == 6


def test_a_backup_that_was_killed_is_none(acme: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(acme, b"one")
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "put", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        assert run("backup", tmp_path).exit_code != 0
    assert sorted(path.name for path in tmp_path.glob("backups/*/*")) == ["database.dump", "objects.jsonl.gz"]
    assert done("backup", tmp_path, "--list") == []
    assert "has no backup" in refused("restore", tmp_path)
    made = later(tmp_path)
    assert (made["objects"], made["copied"]) == (1, 1)
    assert [each["backup"] for each in done("backup", tmp_path, "--list")] == [made["backup"]]


def test_what_a_killed_backup_left_half_written_goes_with_what_is_old(acme: Tenant, tmp_path: Path) -> None:
    stored(acme, b"one")
    left = [tmp_path / "backups/20250101T000000Z/database.dump.partial", tmp_path / "objects/ab/abc.partial"]
    for half in left:
        half.parent.mkdir(parents=True)
        half.write_bytes(b"everybody")
    made = done("backup", tmp_path, "--keep", "1")
    assert not any(half.exists() for half in left)
    assert [each["backup"] for each in done("backup", tmp_path, "--list")] == [made["backup"]]


def test_a_backup_that_is_told_to_end_leaves_no_dump_behind(
    acme: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    seen = []

    def told_to_end(*_: object) -> None:
        seen.extend(temporary.glob("*/database.dump"))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(contents, "backups_of", told_to_end)
    assert run("backup", tmp_path / "there").exit_code == INTERRUPTED
    assert seen and list(temporary.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_nobody_else_can_read_what_is_made_in_a_folder_that_was_there(tmp_path: Path) -> None:
    (mounted := tmp_path / "mounted").mkdir(mode=0o755)
    (source := tmp_path / "source").write_bytes(b"dump")
    folder = Folder(mounted)
    folder.put("backups/a/manifest.json", b"{}")
    folder.put_file("objects/b/two", source)
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in sorted(mounted.rglob("*"))}
    assert modes == {True: 0o700, False: 0o600}


def test_two_backups_are_not_made_at_once_and_what_is_taken_back_is_written_down_all_the_same(
    acme: Tenant, tmp_path: Path
) -> None:
    image = stored(acme, b"erased")
    with turn(making.TURN):
        assert "Another backup is being made" in refused("backup", tmp_path)
        with transaction() as session:
            erasure.erase(session, acme.id, image.id, actor="test", request_id=None)
        assert done("backup", tmp_path, "--withdrawals")["withdrawals"] == 1


def test_what_is_there_already_is_left_alone(acme: Tenant, fresh: Fresh, tmp_path: Path) -> None:
    image = stored(acme, b"one")
    done("backup", tmp_path)
    assert "The database is in use" in refused("restore", tmp_path)
    with fresh() as there:
        client = Storage(settings())
        client.ensure_bucket()
        client.put("something", b"else", "text/plain")
        assert f"The bucket {there['TELLTALE_S3_BUCKET']} is not empty" in refused("restore", tmp_path)
        assert done("restore", tmp_path, "--reuse-objects")["objects"] == 1
        assert client.get(image.s3_key, max_bytes=3) == b"one" and client.exists("something")


def test_a_restore_that_was_stopped_goes_on(
    acme: Tenant, fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(acme, b"one")
    done("backup", tmp_path)
    other = later(tmp_path)["backup"]
    with fresh():
        for stop in ("infra.backups.database.load", "infra.backups.restoring.settle"):
            with monkeypatch.context() as patch:
                patch.setattr(stop, lambda *_: (_ for _ in ()).throw(OSError("stopped")))
                assert run("restore", tmp_path, "--backup", other).exit_code != 0
            with pytest.raises(ConfigurationError, match="run `telltale restore`"):
                schema.check()
            for command in (("migrate",), ("backup", tmp_path), ("backup", tmp_path, "--withdrawals")):
                assert "run `telltale restore`" in refused(*command)
            assert doctor.schema(settings()).said == "A restore was begun, and is not finished."
        older = next(each["backup"] for each in done("backup", tmp_path, "--list") if each["backup"] != other)
        assert f"unfinished restore of the backup {other}" in refused("restore", tmp_path, "--backup", older)
        with listener():
            assert "A relay is connected to the database" in refused("restore", tmp_path)
        assert done("restore", tmp_path)["rows"]["cases"] == 1
        schema.check()
        assert "The database is in use" in refused("restore", tmp_path)


def test_what_the_destination_has_lost_is_said(acme: Tenant, fresh: Fresh, tmp_path: Path) -> None:
    gone, damaged, whole = (stored(acme, content) for content in (b"gone", b"damaged", b"whole"))
    done("backup", tmp_path)
    blobs = {image: tmp_path / contents.blob_name(image.sha256) for image in (gone, damaged)}
    blobs[gone].unlink()
    blobs[damaged].write_bytes(b"DAMAGED")
    said = refused("backup", tmp_path, "--verify")
    assert f"{gone.s3_key} is not there any more" in said and f"{damaged.s3_key} is not what was written" in said
    with fresh():
        assert "All was restored but 2 objects" in refused("restore", tmp_path)
        assert Storage(settings()).exists(whole.s3_key) and not Storage(settings()).exists(damaged.s3_key)
    assert later(tmp_path, "--full")["copied"] == 3
    assert done("backup", tmp_path, "--verify")["damaged"] == 0


def test_a_damaged_dump_is_not_loaded(acme: Tenant, fresh: Fresh, tmp_path: Path) -> None:
    done("backup", tmp_path)
    (dump,) = tmp_path.glob("backups/*/database.dump")
    dump.write_bytes(dump.read_bytes()[:-1])
    for command in (("restore", tmp_path), ("backup", tmp_path, "--verify")):
        with fresh():
            assert "database.dump of the backup" in refused(*command)


def test_what_the_store_itself_has_lost_is_found_when_it_is_backed_up(acme: Tenant, tmp_path: Path) -> None:
    lost, other, erased = (stored(acme, content) for content in (b"lost", b"other", b"erased"))
    store = Storage(settings())
    store.delete(lost.s3_key)
    store.put(other.s3_key, b"OTHER", "image/png")
    with transaction() as session:
        erasure.erase(session, acme.id, erased.id, actor="test", request_id=None)
    said = refused("backup", tmp_path)
    assert lost.s3_key in said and other.s3_key in said and erased.s3_key not in said
    (made,) = done("backup", tmp_path, "--list")
    assert (made["missing"], made["objects"], made["gone"]) == (2, 0, 0)


def test_only_the_newest_are_kept_and_what_they_name(acme: Tenant, tmp_path: Path) -> None:
    old = stored(acme, b"old")
    first = done("backup", tmp_path)
    with transaction() as session:
        erasure.erase(session, acme.id, old.id, actor="test", request_id=None)
    new = stored(acme, b"new")
    made = later(tmp_path, "--keep", "1")
    assert len(made["removed"]) == 1 and made["removed"] != [first["backup"]]
    assert [each["backup"] for each in done("backup", tmp_path, "--list")] == [made["backup"]]
    blobs = {path.name for path in tmp_path.glob("objects/*/*")}
    assert blobs == {new.sha256}, "what was erased is in no backup any more"


def test_an_empty_database_is_not_backed_up(acme: Tenant, db: Engine, tmp_path: Path) -> None:
    """It would push good backups out, and good lists of what was erased."""
    done("backup", tmp_path)
    with transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica; DELETE FROM tenants"))
    for option in ("--full", "--withdrawals"):
        assert "has no tenant" in refused("backup", tmp_path, option)


def test_a_backup_needs_the_keys_of_its_secrets(
    acme: Tenant, fresh: Fresh, tmp_path: Path, with_keys: Callable[[str], None]
) -> None:
    with_keys(key(1))
    with transaction() as session:
        make_endpoint(session, acme)
    (needed,) = done("backup", tmp_path)["needs_keys"]
    with_keys(key(2))
    with fresh():
        assert f"encrypted with the key {needed}" in refused("restore", tmp_path)
        with engine().connect() as connection:
            assert database.tables(connection) == []


def test_an_older_pg_dump_is_told_from_one_that_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert database.program("pg_dump", 15) == old
    assert database.program("pg_dump", 18) != old  # the embedded server's
    with pytest.raises(ConfigurationError, match="pg_dump 99 or later is needed, and the one here is 18"):
        database.program("pg_dump", 99)


@contextmanager
def postgres_behind_tls(folder: Path) -> Iterator[str]:
    """The URL of a server that takes a TLS connection, and says so as PostgreSQL's protocol has it; trusted alone."""
    public, context = certificate(folder)
    said = b"SFATAL\0VFATAL\0C28000\0Mreached over TLS\0\0"
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            assert connection.recv(8)[4:] == (80877103).to_bytes(4)  # SSLRequest
            connection.sendall(b"S")
            with context.wrap_socket(connection, server_side=True) as encrypted:
                encrypted.recv(1000)
                encrypted.sendall(b"E" + (len(said) + 4).to_bytes(4) + said)

        serving = Thread(target=answer, daemon=True)
        serving.start()
        port = listening.getsockname()[1]
        yield f"postgresql+psycopg://telltale@127.0.0.1:{port}/telltale?sslmode=verify-full&sslrootcert={public}"
        serving.join(timeout=10)


def test_a_server_that_wants_tls_is_dumped_by_the_program_of_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with postgres_behind_tls(tmp_path) as url, pytest.raises(ConfigurationError, match="reached over TLS"):
        database.dump(url, "snapshot", tmp_path / "dump", 18)


def test_a_destination_in_the_bucket_itself_is_refused(acme: Tenant) -> None:
    assert "is the bucket that is to be backed up" in refused("backup", f"s3://{settings().s3_bucket}/backups")
    assert "names no bucket" in refused("backup", "s3:///backups")
