"""The audit log: readable, filtered, in pages, as CSV that no spreadsheet runs."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable

import pytest

from moderation import audit, tenants
from moderation.db import transaction
from moderation.tables import Event, Tenant
from moderation.vocabulary import EventType, Role
from tests.api.dashboard.conftest import Browser
from tests.factories import make_case
from tests.platforms import Furnished

ROW = re.compile(r"<tr>\s*<td><time.*?</tr>", re.DOTALL)


@pytest.fixture
def lea(browser_of: Callable[..., Browser]) -> Browser:
    return browser_of(Role.LEAD)


@pytest.fixture
def path(tenant: Tenant) -> str:
    return f"/dashboard/platforms/{tenant.id}/audit"


def rows(browser: Browser, path: str) -> list[str]:
    answer = browser.get(path)
    assert answer.status_code == 200, answer.text
    return [" ".join(html.unescape(re.sub(r"<[^>]+>", " ", row)).split()) for row in ROW.findall(answer.text)]


def exported(browser: Browser, path: str) -> list[dict[str, str]]:
    answer = browser.get(path)
    assert answer.status_code == 200 and answer.mimetype == "text/csv"
    assert re.fullmatch(r'attachment; filename="telltale-audit-[\d-]+\.csv"', answer.headers["Content-Disposition"])
    assert answer.headers["Cache-Control"] == "no-store"
    return list(csv.DictReader(io.StringIO(answer.text)))


def changed(tenant: Tenant, share: float, actor: str) -> None:
    with transaction() as session:
        tenants.change_tenant(session, tenant.id, {"audit_share": share}, actor=actor)


def test_who_changed_what_is_said_in_words(ada: Browser, lea: Browser, tenant: Tenant, path: str) -> None:
    assert ada.user is not None
    changed(tenant, 0.25, f"user:{ada.user.id}")
    newest = rows(lea, path)[0]
    assert "tenant.changed" in newest and ada.user.email in newest and str(ada.user.id) not in newest.split()
    assert "audit share 0 became → 0.25" in newest


def test_what_was_written_by_others_is_no_markup(lea: Browser, tenant: Tenant, path: str) -> None:
    with transaction() as session:
        tenants.create_key(session, tenant.id, "<script>alert(1)</script>", [tenants.Scope.CASES_READ])
    assert "<script>alert" not in lea.get(path).text


def test_filters_hold_for_page_and_csv(lea: Browser, ours: Furnished) -> None:
    with transaction() as session:
        case = make_case(session, ours.tenant)
    queries = {
        "type=case.taken": 1,
        f"case={case.id}": 1,
        f"case={ours.failed.id}": 3,
        "actor=worker": 2,
        "actor=nobody": 0,
        "until=2020-01-01": 0,
        "type=submission.accepted&actor=test": 2,
    }
    for query, count in queries.items():
        assert len(rows(lea, f"{ours.path('/audit')}?{query}")) == count, query
        assert len(exported(lea, f"{ours.path('/audit.csv')}?{query}")) == count, query
    page = lea.get(ours.path("/audit?actor=worker&type=case.taken")).text
    assert 'audit.csv?type=case.taken&amp;actor=worker"' in page
    assert "Clear the filter" in lea.get(ours.path("/audit?actor=nobody")).text


@pytest.mark.parametrize("query", ["?type=x", "?case=x", "?since=x", "?after=x", "?after=2026-01-01~x"])
def test_what_no_form_of_ours_says_is_refused(lea: Browser, path: str, query: str) -> None:
    assert lea.get(path + query).status_code == 400
    if "after" not in query:
        assert lea.get(f"{path}.csv{query}").status_code == 400


def test_pages_miss_and_repeat_nothing(lea: Browser, ours: Furnished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.dashboard.audit.PAGE", 3)
    total, seen, path = len(exported(lea, ours.path("/audit.csv"))), [], ours.path("/audit")
    while path:
        seen += rows(lea, path)
        following = re.search(r'href="([^"]+)">Next page', lea.get(path).text)
        path = html.unescape(following[1]) if following else ""
    assert len(seen) == total == 8


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "=cmd|' /C calc'!A0"])
def test_no_cell_is_a_formula(lea: Browser, tenant: Tenant, path: str, name: str) -> None:
    with transaction() as session:
        session.add(Event(tenant_id=tenant.id, type=EventType.CASE_TAKEN, actor=name, request_id=name))
    (row,) = exported(lea, f"{path}.csv?type=case.taken")
    assert (row["actor"], row["request_id"]) == (f"'{name}", f"'{name}")
    assert not [cell for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_a_line_says_all_of_an_event(ada: Browser, tenant: Tenant, path: str) -> None:
    assert ada.user is not None
    changed(tenant, 0.5, f"user:{ada.user.id}")
    (row,) = exported(ada, f"{path}.csv?type=tenant.changed")
    assert (row["actor"], row["event"]) == (ada.user.email, "tenant.changed")
    assert (row["before"], row["after"]) == ('{"audit_share": 0.0}', '{"audit_share": 0.5}')
    assert row["time"].endswith("+00:00") and row["case"] == "" and row["id"]


def test_however_many_there_are_few_are_read_at_once(
    lea: Browser, tenant: Tenant, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "BATCH", 10)
    asked: list[int] = []
    page = audit.page

    def counted(*args: object, limit: int, **options: object) -> list[audit.Entry]:
        found = page(*args, limit=limit, **options)  # type: ignore[arg-type]
        asked.append(len(found))
        return found

    monkeypatch.setattr(audit, "page", counted)
    with transaction() as session:
        session.add_all(
            Event(tenant_id=tenant.id, type=EventType.CASE_TAKEN, actor="worker", after={"n": n}) for n in range(95)
        )
    lines = exported(lea, f"{path}.csv?type=case.taken")
    assert len(lines) == 95 and max(asked) == 10
    assert lea.get(f"{path}.csv").is_streamed
