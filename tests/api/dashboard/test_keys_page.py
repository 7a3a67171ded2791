"""The keys' page: a key is shown once, ended once."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import func, select

from api.app import Application
from moderation import tenants
from moderation.db import transaction
from moderation.errors import Unauthenticated
from moderation.tables import ApiKey, Tenant
from tests.api.dashboard.conftest import Browser
from tests.platforms import Furnished

TOKEN = re.compile(r"tt_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")


def count() -> int:
    with transaction() as session:
        return session.scalar(select(func.count(ApiKey.id))) or 0


def test_without_one_it_is_said_what_to_do(ada: Browser, tenant: Tenant) -> None:
    assert "There is no key yet" in ada.get(f"/dashboard/platforms/{tenant.id}/keys").text


def test_a_new_key_is_shown_once_and_works(ada: Browser, app: Application, tenant: Tenant) -> None:
    path = f"/dashboard/platforms/{tenant.id}/keys"
    answer = ada.post(path, {"name": "import", "scopes": ["cases:read"]})
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    (token,) = set(TOKEN.findall(answer.text))
    caller = tenants.authenticate(token)
    assert (caller.tenant_id, caller.scopes) == (tenant.id, {"cases:read"})
    page = ada.get(path).text
    # A secret may have underscores of its own.
    assert token not in page and "_".join(token.split("_")[:2]) in page


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"name": "", "scopes": ["cases:read"]}, "A name has 1 to 100"),
        ({"name": "import"}, "without a scope"),
        ({"name": "import", "scopes": ["everything"]}, "without a scope"),
    ],
)
def test_a_key_that_would_be_of_no_use_is_not_made(
    ada: Browser, tenant: Tenant, sent: dict[str, object], words: str
) -> None:
    answer = ada.post(f"/dashboard/platforms/{tenant.id}/keys", sent)
    assert answer.status_code == 400 and words in answer.text and count() == 0


def test_a_revoked_key_ends_at_once_and_stays_in_the_list(ada: Browser, ours: Furnished) -> None:
    with transaction() as session:
        _, token = tenants.create_key(session, ours.tenant.id, "import", list(tenants.Scope))
        key = session.scalars(select(ApiKey).where(ApiKey.name == "import")).one()
    for _ in range(2):
        answer = ada.post(ours.path(f"/keys/{key.id}/revoke"))
        assert answer.location == ours.path("/keys") + "?said=key_revoked"
    with pytest.raises(Unauthenticated):
        tenants.authenticate(token)
    page = ada.get(ours.path("/keys")).text
    assert "revoked" in page and f"/keys/{key.id}/revoke" not in page
