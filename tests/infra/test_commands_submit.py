"""`telltale submit` against the real API over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sqlalchemy import Engine, select
from werkzeug.serving import make_server

from api.app import create_app
from infra.cli import telltale
from infra.client import wire
from moderation import cases, tenants
from moderation.db import transaction
from moderation.settings import settings
from moderation.tables import Case, Submission
from moderation.vocabulary import CaseStatus, DecidedBy, Label, Scope
from tests.factories import champion_or_new, make_key, make_tenant, make_verdict, take_case


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    """A running API."""
    server = make_server("127.0.0.1", 0, create_app(settings()), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def key(db: Engine, bucket: str) -> str:
    with transaction() as session:
        return make_key(session, make_tenant(session), (Scope.SUBMISSIONS_WRITE, Scope.CASES_READ))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    Image.linear_gradient("L").convert("RGB").save(file)
    return file


def submit(url: str, key: str, *arguments: object) -> Result:
    environment = {"TELLTALE_API_KEY": key, "TELLTALE_PUBLIC_URL": url}
    return CliRunner().invoke(telltale, ["submit", *map(str, arguments)], env=environment)


def settle(stop: threading.Event) -> None:
    """What a screening worker would do, to the first case that comes."""
    while not stop.wait(0.05):
        with transaction() as session:
            case = session.scalar(select(Case).where(Case.status == CaseStatus.QUEUED))
            if case is None:
                continue
            take_case(session, case)
            policy = tenants.policy_of(session, case.tenant_id)
            cases.record_verdict(session, case, make_verdict(session, case, champion_or_new(session), 0.97), policy)
            cases.decide(session, case, Label.FAKE, DecidedBy.POLICY)
            return


def test_a_file_becomes_a_case_of_the_keys_tenant(url: str, key: str, picture: Path) -> None:
    result = submit(url, key, picture, "--external-id", "post-1", "--json")
    assert result.exit_code == 0, result.output
    (answer,) = json.loads(result.stdout)
    assert (answer["status"], answer["external_id"]) == ("queued", "post-1")
    with transaction() as session:
        case = session.get_one(Case, answer["id"])
        assert case.tenant_id == tenants.authenticate(key).tenant_id
        assert case.image is not None and case.image.bytes == picture.stat().st_size


def test_a_link_is_left_to_a_worker(url: str, key: str) -> None:
    link = "https://93.184.215.14/picture.png"
    result = submit(url, key, link)
    assert result.exit_code == 0, result.output
    assert "fetching" in result.stdout
    with transaction() as session:
        assert session.scalars(select(Submission.image_url)).one() == link


def test_waiting_shows_the_verdict(url: str, key: str, picture: Path) -> None:
    stop = threading.Event()
    worker = threading.Thread(target=settle, args=(stop,))
    worker.start()
    try:
        result = submit(url, key, picture, "--wait", "--timeout", "100")
    finally:
        stop.set()
        worker.join()
    assert result.exit_code == 0, result.output
    assert "decided" in result.stdout and "0.97" in result.stdout
    assert picture.name in result.stdout.replace("\n", "") and "sha256" not in result.stdout


def test_waiting_ends_with_its_time(url: str, key: str, picture: Path) -> None:
    result = submit(url, key, picture, "--wait", "--timeout", "0")
    assert result.exit_code == 1
    assert "within 0 s" in result.stderr


def test_one_refusal_does_not_keep_the_others_back(url: str, key: str, picture: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("I am no image.")
    result = submit(url, key, tmp_path / "missing.png", text, picture, "--json")
    assert result.exit_code == 1
    missing, refused, accepted = json.loads(result.stdout)
    assert "No such file" in missing["error"]
    assert "415" in refused["error"]
    assert accepted["status"] == "queued"


def test_a_wrong_key_is_said(url: str, key: str, picture: Path) -> None:
    result = submit(url, "tt_000000000000_x", picture)
    assert result.exit_code == 1
    assert "401" in result.stdout


def test_an_api_that_is_not_there_is_said(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "BACKOFF_S", 0)
    result = submit("http://127.0.0.1:9", "tt_000000000000_x", picture)
    assert result.exit_code == 1
    assert "cannot be reached" in result.stdout


def test_a_key_is_needed(picture: Path) -> None:
    result = CliRunner().invoke(telltale, ["submit", str(picture)])
    assert result.exit_code == 2
    assert "TELLTALE_API_KEY" in result.stderr
