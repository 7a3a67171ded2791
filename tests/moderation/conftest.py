"""A platform, and where it is told of events."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from moderation.db import transaction
from moderation.tables import Endpoint, Tenant
from tests.factories import make_endpoint, make_tenant


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    """One platform in a database that is empty else."""
    with transaction() as session:
        return make_tenant(session)


@pytest.fixture
def endpoint(tenant: Tenant) -> Endpoint:
    """One endpoint of it, which is told of everything."""
    with transaction() as session:
        return make_endpoint(session, tenant)
