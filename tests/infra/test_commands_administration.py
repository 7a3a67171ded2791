"""The operator's commands, on a real database: what they make can be used, and what is wrong is said in one line."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, select

from infra.cli import telltale
from moderation import endpoints, sealing, sources, tenants
from moderation.db import transaction
from moderation.errors import Unauthenticated
from moderation.tables import Case, Delivery, Endpoint, Event, Source, User
from moderation.vocabulary import CaseStatus, DeliveryStatus, EventType, Role
from tests.factories import make_case, make_endpoint, make_tenant

pytestmark = pytest.mark.usefixtures("db")

PUBLIC_URL = "https://93.184.215.14/hook"


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(telltale, [str(argument) for argument in arguments], input=stdin)


def succeeded(*arguments: object, stdin: str | None = None) -> str:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(*arguments: object, stdin: str | None = None) -> Any:
    return json.loads(succeeded(*arguments, "--json", stdin=stdin))


def refused(*arguments: object, stdin: str | None = None) -> str:
    """The one line that says what is wrong."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: "), result.stderr
    return lines[0]


@pytest.fixture
def acme(db: Engine) -> str:
    succeeded("tenants", "create", "acme")
    return "acme"


class TestTenants:
    def test_are_created_and_listed(self) -> None:
        made = as_json("tenants", "create", "acme", "--allow-training")
        (listed,) = as_json("tenants", "list")
        assert (listed["id"], listed["name"], listed["allow_training"]) == (made["id"], "acme", True)
        assert "acme" in succeeded("tenants", "list")

    def test_an_empty_list_says_how_to_go_on(self) -> None:
        assert "telltale tenants create" in succeeded("tenants", "list")
        assert as_json("tenants", "list") == []

    def test_a_name_is_taken_once(self, acme: str) -> None:
        assert "There is a tenant 'acme' already." in refused("tenants", "create", acme)

    def test_how_closely_a_tenants_cases_are_looked_at_is_set(self, acme: str) -> None:
        shares = {"blind_share": 0.1, "second_opinion_share": 0.05, "audit_share": 0.01}
        assert as_json("tenants", "list")[0].items() >= shares.items()
        assert "25% are answered blind and 5% by" in succeeded("tenants", "set", acme, "--blind-share", "0.25")
        said = succeeded("tenants", "set", acme, "--second-opinion-share", "0", "--audit-share", "0.125")
        assert "0% by somebody else too; of what its policy decides, 12.5% is looked at" in said
        wanted = {"blind_share": 0.25, "second_opinion_share": 0, "audit_share": 0.125}
        assert as_json("tenants", "list")[0].items() >= wanted.items()
        for option in ("--blind-share", "--second-opinion-share", "--audit-share"):
            assert "between 0 and 1" in refused("tenants", "set", acme, option, "2")
        assert as_json("tenants", "list")[0].items() >= wanted.items()

    def test_nothing_to_set_says_what_there_is(self, acme: str) -> None:
        result = run("tenants", "set", acme)
        assert result.exit_code == 2 and "--audit-share" in result.stderr

    def test_a_new_tenants_shares_can_be_said(self) -> None:
        as_json("tenants", "create", "acme", "--second-opinion-share", "0", "--audit-share", "1")
        assert as_json("tenants", "list")[0].items() >= {"second_opinion_share": 0, "audit_share": 1}.items()


class TestKeys:
    def test_a_new_key_opens_and_is_shown_once(self, acme: str) -> None:
        made = as_json("keys", "create", "--tenant", acme, "--name", "uploads")
        caller = tenants.authenticate(made["key"])
        assert caller.scopes == {"submissions:write", "cases:read"}
        secret = made["key"].rpartition("_")[2]
        assert secret not in succeeded("keys", "list", "--json")

    def test_scopes_are_the_ones_given(self, acme: str) -> None:
        made = as_json("keys", "create", "--tenant", acme, "--name", "x", "--scope", "images:delete")
        assert tenants.authenticate(made["key"]).scopes == {"images:delete"}

    def test_a_revoked_key_no_longer_opens(self, acme: str) -> None:
        made = as_json("keys", "create", "--tenant", acme, "--name", "uploads")
        succeeded("keys", "revoke", made["prefix"])
        with pytest.raises(Unauthenticated):
            tenants.authenticate(made["key"])
        assert as_json("keys", "list", "--tenant", acme)[0]["revoked_at"] is not None

    def test_an_unknown_tenant_is_named(self) -> None:
        assert "'nobody'" in refused("keys", "create", "--tenant", "nobody", "--name", "x")
        assert "'nobody'" in refused("keys", "list", "--tenant", "nobody")

    def test_an_unknown_prefix_is_named(self) -> None:
        assert "'abc'" in refused("keys", "revoke", "abc")


class TestUsers:
    def create(self, tenant: str, *arguments: str, stdin: str) -> Result:
        return run(
            "users", "create", "mo@acme.example", "--tenant", tenant, "--role", "moderator", *arguments, stdin=stdin
        )

    def test_the_password_is_asked_for_twice_and_not_shown(self, acme: str) -> None:
        result = self.create(acme, stdin="correct horse battery\ncorrect horse battery\n")
        assert result.exit_code == 0, result.output
        assert "correct horse" not in result.output
        with transaction() as session:
            assert session.scalars(select(User)).one().password_hash.startswith("$argon2id$")

    def test_the_password_comes_from_standard_input(self, acme: str) -> None:
        assert self.create(acme, "--password-stdin", stdin="correct horse battery\n").exit_code == 0
        (listed,) = as_json("users", "list", "--tenant", acme)
        assert (listed["email"], listed["role"]) == ("mo@acme.example", Role.MODERATOR)

    @pytest.mark.parametrize("stdin", ["", "short\n"])
    def test_a_bad_password_makes_nobody(self, acme: str, stdin: str) -> None:
        assert self.create(acme, "--password-stdin", stdin=stdin).exit_code == 1
        assert as_json("users", "list") == []

    def test_a_person_works_for_another_tenant_too(self, acme: str) -> None:
        self.create(acme, "--password-stdin", stdin="correct horse battery\n")
        succeeded("tenants", "create", "other")
        succeeded("users", "grant", "mo@acme.example", "--tenant", "other", "--role", "lead")
        assert {(row["tenant"], row["role"]) for row in as_json("users", "list")} == {
            ("acme", "moderator"),
            ("other", "lead"),
        }

    def test_granting_to_nobody_is_refused(self, acme: str) -> None:
        assert "'no@body.example'" in refused("users", "grant", "no@body.example", "--tenant", acme, "--role", "lead")


class TestSources:
    def create(self, tenant: str, *arguments: str, stdin: str | None = None) -> Any:
        pointer = ("--image-url-pointer", "/data/url")
        return as_json("sources", "create", "--tenant", tenant, "--name", "up", *pointer, *arguments, stdin=stdin)

    def test_shows_where_to_post_and_the_secret_once(self, acme: str) -> None:
        made = self.create(acme)
        assert made["url"].endswith(f"/v1/hooks/{made['id']}")
        assert made["secret"].startswith("whsec_")
        listed = succeeded("sources", "list", "--json")
        assert made["url"] in listed and made["secret"] not in listed

    def test_takes_the_platforms_own_secret(self, acme: str) -> None:
        made = self.create(acme, "--scheme", "github", "--secret-stdin", stdin="ours\n")
        with transaction() as session:
            assert sources.secrets_of(session.get_one(Source, made["id"])) == ["ours"]

    def test_takes_both_secrets_of_a_bucket(self, acme: str) -> None:
        arguments = ("--kind", "s3_event", "--s3-access-key", "id", "--secret-stdin", "--s3-secret-key-stdin")
        made = self.create(acme, *arguments, stdin="ours\ntheirs\n")
        with transaction() as session:
            source = session.get_one(Source, made["id"])
            assert (sources.secrets_of(source), source.s3_access_key) == (["ours"], "id")
            assert sealing.unseal(source.s3_secret_key, source.id) == "theirs"

    def test_a_name_is_taken_once(self, acme: str) -> None:
        self.create(acme)
        again = ("sources", "create", "--tenant", acme, "--name", "up", "--image-url-pointer", "/url")
        assert "'up'" in refused(*again)

    def test_what_cannot_work_is_refused(self, acme: str) -> None:
        assert "image_url_pointer" in refused("sources", "create", "--tenant", acme, "--name", "up")


class TestEndpoints:
    def create(self, tenant: str, *arguments: str) -> Any:
        return as_json("endpoints", "create", "--tenant", tenant, "--url", PUBLIC_URL, *arguments)

    def test_the_secret_is_shown_once(self, acme: str) -> None:
        made = self.create(acme, "--event", "decision.created")
        assert made["secret"].startswith("whsec_")
        (listed,) = as_json("endpoints", "list")
        assert (listed["id"], listed["events"], listed["state"]) == (made["id"], ["decision.created"], "enabled")
        assert "secret" not in listed

    def test_a_private_address_is_refused(self, acme: str) -> None:
        refused("endpoints", "create", "--tenant", acme, "--url", "http://127.0.0.1:9/hook")
        assert as_json("endpoints", "list") == []

    def test_a_ping_is_queued_for_this_endpoint(self, acme: str) -> None:
        made = self.create(acme)
        pinged = as_json("endpoints", "ping", made["id"])
        (delivery,) = as_json("deliveries", "list", "--endpoint", made["id"])
        assert (delivery["id"], delivery["event"]) == (pinged["delivery"], EventType.ENDPOINT_PING)
        assert delivery["status"] == DeliveryStatus.PENDING

    def test_a_disabled_one_is_enabled(self, acme: str) -> None:
        made = self.create(acme)
        with transaction() as session:
            endpoints.disable(session, session.get_one(Endpoint, made["id"]), "It answered 410 Gone.")
        assert as_json("endpoints", "list")[0]["state"] == "disabled"
        succeeded("endpoints", "enable", made["id"])
        assert as_json("endpoints", "list")[0]["state"] == "enabled"

    def test_the_old_secret_still_signs_after_a_rotation(self, acme: str) -> None:
        made = self.create(acme)
        rotated = as_json("endpoints", "rotate-secret", made["id"])
        with transaction() as session:
            assert endpoints.secrets_of(session.get_one(Endpoint, made["id"])) == [rotated["secret"], made["secret"]]

    @pytest.mark.parametrize("command", ["ping", "enable", "rotate-secret"])
    def test_an_unknown_one_is_named(self, command: str) -> None:
        unknown = uuid4()
        assert str(unknown) in refused("endpoints", command, unknown)


class TestDeliveries:
    @pytest.fixture
    def delivered(self, acme: str) -> Delivery:
        """One delivery that arrived, to one endpoint."""
        with transaction() as session:
            tenant = tenants.tenant_named(session, acme)
            delivery = endpoints.ping(session, make_endpoint(session, tenant))
            delivery.status = DeliveryStatus.DELIVERED
            return delivery

    def status(self) -> str:
        (row,) = as_json("deliveries", "list", "--tenant", "acme")
        return str(row["status"])

    def test_one_is_sent_again(self, delivered: Delivery) -> None:
        assert self.status() == "delivered"
        assert "1 delivery will" in succeeded("deliveries", "replay", delivered.id)
        assert self.status() == "pending"

    def test_a_range_is_sent_again(self, delivered: Delivery) -> None:
        past = ("--since", "2020-01-01", "--until", "2020-02-01")
        assert "0 deliveries" in succeeded("deliveries", "replay", "--endpoint", delivered.endpoint_id, *past)
        assert "1 delivery" in succeeded(
            "deliveries", "replay", "--endpoint", delivered.endpoint_id, "--since", "2020-01-01"
        )
        assert self.status() == "pending"

    @pytest.mark.parametrize("arguments", [(), ("--since", "2020-01-01"), (str(uuid4()), "--since", "2020-01-01")])
    def test_half_a_wish_is_refused(self, arguments: tuple[str, ...]) -> None:
        result = run("deliveries", "replay", *arguments)
        assert result.exit_code == 2
        assert "DELIVERY_ID" in result.stderr

    def test_an_unknown_one_is_named(self) -> None:
        unknown = uuid4()
        assert str(unknown) in refused("deliveries", "replay", unknown)

    def test_only_those_of_a_status_are_listed(self, delivered: Delivery) -> None:
        assert as_json("deliveries", "list", "--status", "failed") == []
        assert len(as_json("deliveries", "list", "--status", "delivered")) == 1


class TestPolicies:
    def test_what_is_not_given_stays(self, acme: str) -> None:
        before = as_json("policies", "show", "--tenant", acme)
        after = as_json("policies", "set", "--tenant", acme, "--fake-from", "0.9", "--explain", "flagged")
        assert (after["version"], after["fake_from"], after["explain"]) == (before["version"] + 1, 0.9, "flagged")
        assert after["real_up_to"] == before["real_up_to"]
        assert as_json("policies", "show", "--tenant", acme) == after

    def test_thresholds_out_of_order_change_nothing(self, acme: str) -> None:
        before = as_json("policies", "show", "--tenant", acme)
        assert "real_up_to" in refused("policies", "set", "--tenant", acme, "--fake-from", "0.1", "--real-up-to", "0.2")
        assert as_json("policies", "show", "--tenant", acme) == before

    def test_setting_nothing_is_refused(self, acme: str) -> None:
        assert run("policies", "set", "--tenant", acme).exit_code == 2


class TestCases:
    def make(self, status: CaseStatus, tenant: str | None = None) -> Case:
        with transaction() as session:
            owner = make_tenant(session) if tenant is None else tenants.tenant_named(session, tenant)
            return make_case(session, owner, status, external_id=f"img-{status.value}")

    def test_only_the_tenants_are_listed(self, acme: str) -> None:
        mine = self.make(CaseStatus.DECIDED, acme)
        self.make(CaseStatus.DECIDED)
        (row,) = as_json("cases", "list", "--tenant", acme)
        assert (row["id"], row["status"], row["label"]) == (str(mine.id), "decided", "fake")
        assert as_json("cases", "list", "--tenant", acme, "--status", "failed") == []

    def test_a_case_is_shown_with_its_history(self, acme: str) -> None:
        case = self.make(CaseStatus.FAILED, acme)
        shown = as_json("cases", "show", case.id)
        assert shown["failure"]["reason"] == "undecodable"
        assert [event["event"] for event in shown["events"]] == [
            "submission.accepted",
            "case.taken",
            "verdict.failed",
        ]
        assert "It was broken." in succeeded("cases", "show", case.id)

    def test_settled_cases_are_watched_no_longer(self, acme: str) -> None:
        cases = [self.make(CaseStatus.DECIDED, acme), self.make(CaseStatus.IN_REVIEW, acme)]
        output = succeeded("cases", "watch", *(case.id for case in cases))
        assert "in_review" in output and "decided" in output

    def test_watching_a_failed_case_says_so(self, acme: str) -> None:
        result = run("cases", "watch", self.make(CaseStatus.FAILED, acme).id)
        assert result.exit_code == 1
        assert "cases show" in result.stderr

    def test_watching_ends_with_its_time(self, acme: str) -> None:
        result = run("cases", "watch", self.make(CaseStatus.QUEUED, acme).id, "--timeout", "0")
        assert result.exit_code == 1
        assert "within 0 s" in result.stderr

    def test_a_failed_case_is_judged_again(self, acme: str) -> None:
        case = self.make(CaseStatus.FAILED, acme)
        assert "1 case will" in succeeded("cases", "retry", case.id)
        with transaction() as session:
            assert session.get_one(Case, case.id).status is CaseStatus.QUEUED
            actors = select(Event.actor).where(Event.type == EventType.CASE_RETRIED)
            assert session.scalars(actors).one() == "operator"

    def test_all_or_none_are_retried(self, acme: str) -> None:
        failed, decided = self.make(CaseStatus.FAILED, acme), self.make(CaseStatus.DECIDED, acme)
        assert str(decided.id) in refused("cases", "retry", failed.id, decided.id)
        with transaction() as session:
            assert session.get_one(Case, failed.id).status is CaseStatus.FAILED

    @pytest.mark.parametrize("command", ["show", "watch", "retry"])
    def test_an_unknown_one_is_named(self, command: str) -> None:
        unknown = uuid4()
        assert str(unknown) in refused("cases", command, unknown)
