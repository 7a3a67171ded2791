"""The platforms' pages as an administrator uses them: a key that works, a source is tried, an endpoint answers."""

from __future__ import annotations

import json
import shlex
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from infra.services import wait_until
from moderation import cases, claims, dispatch, members, signing
from moderation.attempts import Outcome
from moderation.db import transaction
from moderation.settings import settings
from moderation.tables import Case, Delivery
from moderation.vocabulary import CaseStatus, FailureReason, Role
from tests.browser.conftest import TABLET, TIMEOUT_MS, Dashboard, lines_of, overflow, serving, tenant_named
from tests.factories import make_case, make_endpoint, take_case
from tests.moderation.test_outbound import serving as receiving
from tests.platforms import Furnished, attempt, furnish
from tests.reviewing import make_person, make_review_case
from workers import delivery as worker

ADA = "ada@pixelgram.example"
PLATFORMS = "/dashboard/platforms"
LEASE = timedelta(seconds=30)
Look = Callable[[Page, str], None]


@pytest.fixture
def platform(dashboard: Dashboard) -> Furnished:
    """Pixelgram, with one of everything, administered by Ada."""
    dashboard.person(ADA, Pixelgram=Role.ADMIN)
    with transaction() as session:
        return furnish(session, tenant_named(session, "Pixelgram"))


def called(url: str, headers: dict[str, str], body: bytes | None = None) -> tuple[int, Any]:
    """The API's status and JSON."""
    with urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers)) as answer:
        return answer.status, json.load(answer)


def test_a_platform_is_set_up(dashboard: Dashboard, look: Look) -> None:
    dashboard.person(ADA, Pixelgram=Role.ADMIN, Fotoforum=Role.LEAD)
    page = dashboard.sign_in(ADA)
    page.get_by_role("link", name="Platforms").click()
    expect(page.get_by_role("link", name="Platforms")).to_have_attribute("aria-current", "page")
    look(page, "platforms")
    page.get_by_role("main").get_by_role("link", name="Pixelgram").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Settings")
    page.get_by_label("Answered blind (%)").fill("33.3")
    page.get_by_label("Audited (%)").fill("2")
    page.get_by_label("Reviewed images may train the model").check()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("Saved")
    expect(page.get_by_label("Answered blind (%)")).to_have_value("33.3")
    expect(page.get_by_label("Reviewed images may train the model")).to_be_checked()
    look(page, "platform-settings")
    page.get_by_role("main").get_by_role("paragraph").get_by_role("link", name="audit log").click()
    expect(page.get_by_role("table")).to_contain_text("0.333")


def test_a_key_is_made_copied_and_calls_the_api(dashboard: Dashboard, platform: Furnished, look: Look) -> None:
    page = dashboard.sign_in(ADA, platform.path("/keys"))
    look(page, "platform-keys")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_label("Name").fill("night import")
    page.get_by_role("checkbox", name="images:delete").check()
    page.get_by_role("button", name="Make a key").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The key is made")
    look(page, "platform-key-made")
    page.get_by_role("button", name="Copy: Key").click()
    expect(page.get_by_role("status")).to_contain_text("Copied.")
    token: str = page.evaluate("navigator.clipboard.readText()")
    assert token == page.get_by_label("Key", exact=True).input_value()
    assert token not in page.url
    status, answer = called(f"{dashboard.url}/v1/cases", {"Authorization": f"Bearer {token}"})
    assert status == 200 and [case["external_id"] for case in answer["cases"]] == ["post-404"]
    page.get_by_role("link", name="I have it").click()
    expect(page.get_by_role("row", name="night import").locator("time")).to_have_count(2)  # made, and used
    assert token not in page.content()
    page.get_by_role("button", name="Revoke night import").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("status")).to_contain_text("Revoked")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        called(f"{dashboard.url}/v1/cases", {"Authorization": f"Bearer {token}"})


def test_a_source_is_made_tried_and_takes_what_was_tried(dashboard: Dashboard, platform: Furnished, look: Look) -> None:
    page = dashboard.sign_in(ADA, platform.path("/sources"))
    look(page, "platform-sources")
    page.get_by_role("link", name="New source").click()
    expect(page.get_by_label("Access key")).to_be_hidden()
    page.get_by_label("Name", exact=True).fill("avatars")
    page.get_by_label("Link to the image").fill("data/url")
    look(page, "platform-source-new")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_text("'data/url' is not a JSON Pointer")).to_have_count(2)
    page.get_by_label("Link to the image").fill("/data/image/url")
    page.get_by_label("The platform's own id").fill("/data/id")
    page.get_by_label("What is kept with the case").fill("/data")
    page.get_by_role("button", name="Make it").click()
    secret = page.get_by_label("Secret", exact=True).input_value()
    assert secret.startswith("whsec_")
    look(page, "platform-source-made")
    page.get_by_role("link", name="I have it").click()

    page.get_by_role("button", name="Try", exact=True).click()
    trial = page.locator("[data-trial]")
    expect(trial).to_contain_text("holds signed here")
    expect(trial).to_contain_text("https://example.com/picture.jpg")
    expect(trial).to_contain_text("post-17")
    look(page, "platform-source-tried")
    command = shlex.split(page.locator("#curl").inner_text().replace("\\\n", " "))

    page.get_by_label("Body of a webhook").fill('{"data": {"picture": 1, "id": 7}}')
    page.get_by_label("Its headers").fill("webhook-id: w1\nwebhook-timestamp: 1\nwebhook-signature: v1,AAAA")
    page.get_by_role("button", name="Try", exact=True).click()
    expect(trial).to_contain_text("'webhook-timestamp' is")
    expect(trial).to_contain_text("Pointer /data/image/url")
    expect(trial).to_contain_text("At /data there is an object with picture, id.")
    look(page, "platform-source-wrong")

    with transaction() as session:
        assert session.scalars(select(Case.id)).all() == [platform.failed.id], "nothing was submitted"
    headers = dict(part.split(": ", 1) for flag, part in pairwise(command) if flag == "-H")
    url = dashboard.url + command[1][command[1].index("/v1/") :]
    status, answer = called(url, headers, command[-1].encode())
    assert status == 202 and answer["cases"][0]["external_id"] == "post-17"


@contextmanager
def delivering(**changes: Any) -> Iterator[None]:
    """A delivery worker, in a thread: what is due is sent, by the worker's own task."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(0.05):
            with transaction() as session:
                due = dispatch.offer_deliveries(session, per_endpoint=4, lease=LEASE)
            for delivery_id in due:
                worker.deliver(str(delivery_id))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "settings", lambda: settings().model_copy(update=changes))
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def test_an_endpoint_is_made_pinged_and_sent_again(dashboard: Dashboard, look: Look) -> None:
    dashboard.person(ADA, Pixelgram=Role.ADMIN)
    with transaction() as session:
        tenant_id = tenant_named(session, "Pixelgram").id
    willing = threading.Event()

    def receive(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200 if willing.is_set() else 500)
        request.end_headers()
        request.wfile.write(b"thank you" if willing.is_set() else b"not today")

    with receiving(receive) as receiver:
        hosts = (f"127.0.0.1:{receiver.port}",)
        with serving(TELLTALE_ALLOWED_HOSTS=json.dumps(hosts)) as url, delivering(allowed_hosts=hosts):
            page = replace(dashboard, url=url).sign_in(ADA, f"{PLATFORMS}/{tenant_id}/endpoints")
            expect(page.get_by_role("heading", name="There is no endpoint yet")).to_be_visible()
            page.get_by_role("link", name="New endpoint").click()
            page.get_by_label("Address").fill("http://10.0.0.1/hook")
            page.get_by_role("checkbox", name="verdict.completed").check()
            look(page, "platform-endpoint-new")
            page.get_by_role("button", name="Make it").click()
            expect(page.get_by_text("is not a public address")).to_be_visible()
            expect(page.get_by_role("checkbox", name="verdict.completed")).to_be_checked()
            page.get_by_label("Address").fill(receiver.url("/hook"))
            page.get_by_role("button", name="Make it").click()
            secret = page.get_by_label("Signing secret", exact=True).input_value()
            look(page, "platform-endpoint-made")
            page.get_by_role("link", name="I have it").click()

            page.get_by_role("button", name="Send a ping").click()
            expect(page.get_by_role("heading", level=1)).to_have_text("endpoint.ping")
            expect(page.get_by_text("not today").first).to_be_visible()
            expect(page.locator("[data-status]")).to_have_text("pending")
            look(page, "platform-delivery")
            willing.set()
            page.get_by_role("button", name="Send it again").click()
            expect(page.locator("[data-status]")).to_have_text("delivered")
            expect(page.get_by_text("thank you").first).to_be_visible()
            sent = len(receiver.seen)

            page.get_by_role("link", name=receiver.url("/hook")).click()
            look(page, "platform-endpoint")
            page.get_by_role("button", name="Count them first").click()
            expect(page.locator("[data-count]")).to_contain_text("1 delivery of events")
            look(page, "platform-replay")
            page.get_by_role("button", name="Send them again").click()
            expect(page.get_by_role("status")).to_contain_text("sent again")
            wait_until(lambda: len(receiver.seen) > sent, "what is sent again", TIMEOUT_MS / 1000)
    assert len({headers["webhook-id"] for _, _, headers, _ in receiver.seen}) == 1
    for _, _, headers, body in receiver.seen:
        signing.verify_standard([secret], headers, body)


def test_what_went_out_and_what_did_not(dashboard: Dashboard, platform: Furnished, look: Look) -> None:
    with transaction() as session:
        tenant = tenant_named(session, "Pixelgram")
        busy = make_endpoint(session, tenant, "https://archive.pixelgram.example/in", ["verdict.completed"])
        gone = make_endpoint(session, tenant, "https://old.pixelgram.example/in", ["verdict.failed"])
        for number in range(5):
            make_case(session, tenant, CaseStatus.DECIDED, external_id=f"post-{number}")
        make_case(session, tenant, CaseStatus.FAILED, external_id="post-7")
        outcomes = {
            busy.id: Outcome(503, "busy", None, 812),
            gone.id: Outcome(410, "gone", None, 41),
            platform.endpoint.id: Outcome(200, "ok", None, 57),
        }
        for due in dispatch.offer_deliveries(session, per_endpoint=50, lease=LEASE):
            attempt(session, due, outcomes[endpoint_of(session, due)])
    page = dashboard.sign_in(ADA, platform.path("/endpoints"))
    expect(page.get_by_role("table")).to_contain_text("It answered 410 Gone.")
    look(page, "platform-endpoints")
    page.get_by_role("link", name="Deliveries").click()
    look(page, "platform-deliveries")
    page.get_by_label("Status").select_option("failed")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("table").get_by_role("row")).to_have_count(2)
    page.get_by_label("Event").select_option("appeal.decided")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("heading", name="Nothing fits this filter")).to_be_visible()


def endpoint_of(session: Any, delivery_id: UUID) -> UUID:
    """Where a delivery goes."""
    endpoint_id: UUID = session.get_one(Delivery, delivery_id).endpoint_id
    return endpoint_id


def test_failed_cases_are_tried_again(dashboard: Dashboard, platform: Furnished, look: Look) -> None:
    details = {
        FailureReason.LINK_STATUS: "The link answers with status 404: give one that works.",
        FailureReason.LINK_NOT_IMAGE: "The link leads to a web page, not to an image.",
        FailureReason.WORKER_LOST: "The worker was lost on each of 3 attempts.",
    }
    with transaction() as session:
        for number, (reason, detail) in enumerate(details.items()):
            case = make_case(session, tenant_named(session, "Pixelgram"), external_id=f"post-{number}")
            take_case(session, case)
            cases.fail(session, case, reason, detail)
    page = dashboard.sign_in(ADA, platform.path("/failures"))
    expect(page.get_by_text("4 cases without a verdict")).to_be_visible()
    look(page, "platform-failures")
    page.get_by_role("button", name="Try again: post-404").click()
    expect(page.get_by_role("status")).to_contain_text("The case is tried again.")
    page.get_by_label("Reason").select_option("worker_lost")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("button", name="Try again: post-2")).to_have_count(1)
    expect(page.get_by_role("button", name="Try again: post-0")).to_have_count(0)
    page.get_by_role("button", name="Try all again").click()
    page.get_by_role("dialog").get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Nothing fits this filter")).to_be_visible()
    page.get_by_role("link", name="Clear", exact=True).click()
    expect(page.get_by_text("2 cases without a verdict")).to_be_visible()


def test_people_come_change_and_go(dashboard: Dashboard, platform: Furnished, look: Look) -> None:
    with transaction() as session:
        tenant = tenant_named(session, "Pixelgram")
        bert = make_person(session, tenant, email="bert@pixelgram.example")
        make_person(session, tenant, role=Role.LEAD, email="lea@pixelgram.example")
        case = make_review_case(session, tenant)
        claims.claim(session, bert, case.id)
    page = dashboard.sign_in(ADA, platform.path("/people"))
    look(page, "platform-people")
    page.get_by_label("E-mail").fill("nina@pixelgram.example")
    page.get_by_role("button", name="Add").click()
    password = page.get_by_label("First password", exact=True).input_value()
    look(page, "platform-person-made")
    page.get_by_role("link", name="I have it").click()
    page.get_by_label("Role of nina@pixelgram.example", exact=True).select_option("lead")
    page.get_by_role("button", name="Set the role of nina@pixelgram.example").click()
    expect(page.get_by_role("status")).to_contain_text("The role is changed.")
    page.get_by_role("button", name="Remove bert@pixelgram.example").click()
    look(page, "platform-person-leaves")
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_role("status")).to_contain_text("what they had in hand went back")
    page.get_by_role("button", name=f"Remove {ADA}").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_role("alert")).to_contain_text("keeps at least one administrator")

    nina = dashboard.visit()
    nina.get_by_label("E-mail").fill("nina@pixelgram.example")
    nina.get_by_label("Password").fill(password)
    nina.get_by_role("button", name="Sign in").click()
    nina.get_by_role("link", name="Platforms").click()
    nina.get_by_role("link", name="Pixelgram").click()
    tabs = nina.get_by_role("navigation", name="Pixelgram")
    expect(tabs.get_by_role("link", name="Failed cases")).to_be_visible()
    expect(tabs.get_by_role("link", name="Audit log")).to_be_visible()
    expect(tabs.get_by_role("link", name="Keys")).to_have_count(0)
    expect(tabs.get_by_role("link", name="People")).to_have_count(0)


def test_the_audit_log_is_filtered_and_taken_along(dashboard: Dashboard, platform: Furnished, look: Look) -> None:
    page = dashboard.sign_in(ADA, platform.path())
    page.get_by_label("Second opinion (%)").fill("10")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("Saved")
    page.get_by_role("link", name="Audit log", exact=True).click()
    look(page, "platform-audit")
    page.get_by_label("By").fill(ADA)
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("table").get_by_role("row")).to_have_count(2)
    expect(page.get_by_role("table")).to_contain_text("second opinion share")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV of this filter").click()
    assert download.value.suggested_filename.endswith(".csv")
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == 2 and ADA in lines[1]


def test_who_has_a_long_address_is_read_in_one_line(dashboard: Dashboard, platform: Furnished) -> None:
    long = "maximiliane.oberlaender-friedrichs@moderation.pixelgram.example"
    boss = dashboard.person(long, Pixelgram=Role.ADMIN)
    max_ = dashboard.person("max@pixelgram.example", Pixelgram=Role.LEAD)
    with transaction() as session:
        members.change_role(session, platform.tenant.id, max_.id, Role.MODERATOR, actor=f"user:{boss.id}")
    page = dashboard.sign_in(long, platform.path("/audit"))
    page.set_viewport_size(TABLET)
    page.reload()
    row = page.get_by_role("row", name="member.changed")
    assert lines_of(row.get_by_role("cell", name=long)) == 1
    assert lines_of(row.get_by_text("max@pixelgram.example", exact=True)) == 1
    assert overflow(page) == 0
