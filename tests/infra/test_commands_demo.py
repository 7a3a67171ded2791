"""The demo's parts: a receiver that is hard to please, samples that are all there, a table that hides nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import urllib3
from rich.console import Console
from sqlalchemy import Engine, select
from standardwebhooks import Webhook

from infra.demo.platform import MODERATOR, OPERATOR, new_platform
from infra.demo.receiver import Receiver
from infra.demo.report import WIDTH, last_line, results
from infra.demo.samples import Sample, sample_server, samples
from infra.demo.shipments import Shipment
from moderation import signing, tenants
from moderation.db import transaction
from moderation.errors import ConfigurationError
from moderation.settings import settings
from moderation.tables import Endpoint, User

SECRET = signing.new_secret()
LONG = "This is a fake image. " + "A regular checkerboard covers the smooth areas of the sky. " * 5


class TestReceiver:
    @pytest.fixture
    def receiver(self) -> Iterator[Receiver]:
        receiver = Receiver()
        with receiver.server:
            yield receiver

    def send(
        self, receiver: Receiver, type_: str = "decision.created", secret: str = SECRET, id_: str = "msg_1"
    ) -> int:
        body = json.dumps({"type": type_, "data": {"id": "case-1"}})
        now = datetime.now(UTC)
        headers = {
            "webhook-id": id_,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret).sign(id_, now, body),
        }
        return urllib3.request("POST", receiver.url, body=body, headers=headers).status

    def test_counts_each_event_once(self, receiver: Receiver) -> None:
        receiver.trust(SECRET)
        assert [self.send(receiver), self.send(receiver)] == [204, 204]
        assert self.send(receiver, "verdict.completed", id_="msg_2") == 204
        assert receiver.verified("case-1") == ["decision.created", "verdict.completed"]
        assert receiver.refused == 0

    def test_refuses_another_secrets_signature(self, receiver: Receiver) -> None:
        receiver.trust(SECRET)
        assert self.send(receiver, secret=signing.new_secret()) == 401
        assert (receiver.verified("case-1"), receiver.refused) == ([], 1)

    def test_refuses_everything_before_it_has_a_secret(self, receiver: Receiver) -> None:
        assert self.send(receiver) == 401
        assert receiver.verified("case-1") == []

    def test_refuses_what_is_not_signed_at_all(self, receiver: Receiver) -> None:
        receiver.trust(SECRET)
        assert urllib3.request("POST", receiver.url, body=b"{}").status == 401


class TestSamples:
    def index(self, folder: Path, *names: str) -> None:
        (folder / "samples.json").write_text(
            json.dumps({"samples": [{"file": name, "label": "real"} for name in names]})
        )

    def test_come_in_the_order_of_the_index_and_are_served(self, tmp_path: Path) -> None:
        self.index(tmp_path, "b.png", "a.png")
        for name in ("a.png", "b.png"):
            (tmp_path / name).write_bytes(name.encode())
        assert [sample.name for sample in samples(tmp_path)] == ["b.png", "a.png"]
        with sample_server(tmp_path) as server:
            assert urllib3.request("GET", f"{server.url}/a.png").data == b"a.png"

    def test_a_missing_one_is_named(self, tmp_path: Path) -> None:
        self.index(tmp_path, "a.png")
        with pytest.raises(ConfigurationError, match=r"a\.png"):
            samples(tmp_path)

    def test_without_an_index_it_says_how_to_make_them(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="make demo-checkpoint"):
            samples(tmp_path)


class TestPlatform:
    @pytest.fixture
    def allowed(self, db: Engine) -> Any:
        return settings().model_copy(update={"allowed_hosts": ("127.0.0.1:9",)})

    def test_a_second_run_has_its_own_tenant_and_the_first_ones_endpoint_is_left_alone(self, allowed: Any) -> None:
        first = new_platform("http://127.0.0.1:9/webhooks", "a long password", allowed)
        second = new_platform("http://127.0.0.1:9/webhooks", "a long password", allowed)
        assert first.tenant != second.tenant
        assert tenants.authenticate(first.key).tenant_id != tenants.authenticate(second.key).tenant_id
        with transaction() as session:
            listening = session.scalars(select(Endpoint).where(Endpoint.disabled_at.is_(None))).one()
            assert listening.tenant_id == tenants.authenticate(second.key).tenant_id
            assert set(session.scalars(select(User.email))) == {MODERATOR, OPERATOR}


def shipment(**case: Any) -> Shipment:
    """A fake that was decided, explained and told of; `case` says otherwise."""
    made = Shipment(
        Sample(Path("grid-3.jpg"), "fake"), "webhook", verified_events=["verdict.completed", "decision.created"]
    )
    made.case = {
        "id": "case-1",
        "status": "decided",
        "verdict": {"label": "fake", "p_fake": 0.9712, "explanation": LONG},
        "decision": {"label": "fake", "by": "policy"},
        "created_at": "2026-01-01T12:00:00+00:00",
        "settled_at": "2026-01-01T12:00:01.204000+00:00",
        **case,
    }
    return made


class TestReport:
    def shown(self, *shipments: Shipment, wide: bool = False) -> str:
        console = Console(width=600 if wide else WIDTH, highlight=False)
        with console.capture() as captured:
            console.print(results(shipments, columns=console.width, wide=wide))
        return captured.get()

    def test_fits_a_terminal_of_100_columns(self) -> None:
        shown = self.shown(shipment(), shipment(status="in_review", decision=None, review_reason="uncertain"))
        assert max(map(len, shown.splitlines())) <= WIDTH
        for words in ("grid-3.jpg", "fake, webhook", "0.971", "1204", "by policy", "in review", "uncertain", "yes"):
            assert words in shown
        assert "This is a fake image." not in shown
        assert "…" in shown

    def test_wide_shows_explanations_whole(self) -> None:
        assert LONG.strip() in self.shown(shipment(), wide=True)

    def test_a_failure_shows_its_reason(self) -> None:
        failed = shipment(status="failed", verdict=None, decision=None, failure={"detail": "The link answered 404."})
        assert "The link answered 404." in self.shown(failed)

    @pytest.mark.parametrize(
        ("wrong", "counts"),
        [
            (shipment(), "1 submitted, 1 settled, 1 explained, 1 webhooks verified, 0 failed"),
            (shipment(status="queued"), "1 submitted, 0 settled, 1 explained, 1 webhooks verified, 1 failed"),
            (shipment(status="failed"), "1 submitted, 0 settled, 1 explained, 1 webhooks verified, 1 failed"),
            (
                shipment(verdict={"label": "fake", "p_fake": 0.9, "explanation": None}),
                "1 submitted, 1 settled, 0 explained, 1 webhooks verified, 1 failed",
            ),
            (
                Shipment(Sample(Path("a.jpg"), "real"), "REST", error="It was refused."),
                "0 submitted, 0 settled, 0 explained, 0 webhooks verified, 1 failed",
            ),
        ],
    )
    def test_the_last_line_counts_every_way_to_fail(self, wrong: Shipment, counts: str) -> None:
        assert last_line([wrong]) == f"demo: {counts}"

    def test_a_webhook_that_never_came_is_a_failure(self) -> None:
        untold = shipment()
        untold.verified_events = ["submission.accepted", "verdict.completed"]
        assert last_line([untold]).endswith("0 webhooks verified, 1 failed")
        assert "No verified webhook" in self.shown(untold)
