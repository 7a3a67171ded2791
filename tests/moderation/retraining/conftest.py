"""A platform whose reviews may be learned from, and who reviews there."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from moderation.accounts import Person
from moderation.db import transaction
from moderation.tables import Tenant
from tests.learning import make_consenting
from tests.reviewing import make_person


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    """One platform in a database that is empty else; it lets its images be used."""
    with transaction() as session:
        return make_consenting(session)


@pytest.fixture
def anna(tenant: Tenant) -> Person:
    """A moderator of it."""
    with transaction() as session:
        return make_person(session, tenant)
