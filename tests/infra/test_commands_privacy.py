"""`telltale tenants retention | statements | export-subject` and `telltale cases statements`."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import pytest
from sqlalchemy import Engine

from moderation import tenants
from moderation.db import transaction
from moderation.tables import Case
from moderation.vocabulary import CaseStatus
from tests.factories import make_case
from tests.infra.test_commands_administration import as_json, refused, run, succeeded


@pytest.fixture
def acme(db: Engine) -> str:
    succeeded("tenants", "create", "acme")
    return "acme"


@pytest.fixture
def decided(acme: str) -> Case:
    with transaction() as session:
        tenant = tenants.tenant_named(session, acme)
        return make_case(session, tenant, CaseStatus.DECIDED, external_id="post-1", details={"subject": "u-17"})


def test_retention_is_shown_and_set_one_by_one(acme: str) -> None:
    assert set(as_json("tenants", "retention", acme).values()) == {None}
    assert "appealed for ever" in refused("tenants", "retention", acme, "--images", "30")
    days = ("--images", "30", "--verdicts", "365", "--events", "730", "--appeals", "30")
    said = succeeded("tenants", "retention", acme, *days)
    assert "30 days" in said and "ever" in said
    succeeded("tenants", "retention", acme, "--images", "ever", "--restricted", "400")
    assert as_json("tenants", "retention", acme) == {
        "images": None,
        "verdicts": 365,
        "events": 730,
        "restricted": 400,
        "appeals": 30,
    }
    assert "nobody could look into a late appeal" in refused("tenants", "retention", acme, "--appeals", "500")
    assert "neither a number of days" in run("tenants", "retention", acme, "--images", "soon").output


def test_statement_defaults_are_read_from_a_file(acme: str, tmp_path: Path) -> None:
    assert succeeded("tenants", "statements", acme).strip() == "{}"
    file = tmp_path / "defaults.json"
    file.write_text('{"synthetic": {"category": "STATEMENT_CATEGORY_SCAMS_AND_FRAUD"}}')
    for arguments in (("--file", file), ()):
        said = json.loads(succeeded("tenants", "statements", acme, *arguments))
        assert said == {"synthetic": {"category": "STATEMENT_CATEGORY_SCAMS_AND_FRAUD"}}
    file.write_text('{"synthetic": {"category": "CATS"}}')
    assert "synthetic/category" in refused("tenants", "statements", acme, "--file", file)
    file.write_text("[")
    assert "is not JSON" in refused("tenants", "statements", acme, "--file", file)


def test_statements_are_lines_or_a_table(acme: str, decided: Case, tmp_path: Path) -> None:
    (line,) = succeeded("cases", "statements", acme, "--since", "2020-01-01").splitlines()
    told = json.loads(line)
    assert told["case_id"] == str(decided.id) and not told["complete"]
    out = tmp_path / "statements.csv"
    succeeded("cases", "statements", acme, "--since", "2020-01-01", "--csv", "--out", out)
    (row,) = csv.DictReader(io.StringIO(out.read_text()))
    assert row["puid"] == told["statement"]["puid"]
    assert row["content_type"] == "CONTENT_TYPE_IMAGE|CONTENT_TYPE_SYNTHETIC_MEDIA" and "category" in row["missing"]
    assert succeeded("cases", "statements", acme, "--since", "2020-01-01", "--until", "2020-02-01") == ""


def test_no_cell_of_statements_is_a_formula(acme: str, decided: Case, tmp_path: Path) -> None:
    defaults, out = tmp_path / "defaults.json", tmp_path / "statements.csv"
    ground = {
        "decision_ground": "DECISION_GROUND_INCOMPATIBLE_CONTENT",
        "incompatible_content_explanation": "=HYPERLINK(A1)",
    }
    defaults.write_text(json.dumps({"synthetic": ground}))
    succeeded("tenants", "statements", acme, "--file", defaults)
    succeeded("cases", "statements", acme, "--since", "2020-01-01", "--csv", "--out", out)
    (row,) = csv.DictReader(io.StringIO(out.read_text()))
    assert row["incompatible_content_explanation"] == "'=HYPERLINK(A1)"


def test_a_subject_is_exported_to_a_new_file(acme: str, decided: Case, bucket: str, tmp_path: Path) -> None:
    out = tmp_path / "u-17.zip"
    assert "1 case in" in succeeded("tenants", "export-subject", acme, "--subject", "u-17", "--out", out)
    with zipfile.ZipFile(out) as zipped:
        assert json.loads(zipped.read("cases.jsonl"))["id"] == str(decided.id)
    assert "is there already" in refused("tenants", "export-subject", acme, "--subject", "u-17", "--out", out)
    other = tmp_path / "other.zip"
    assert "no case of this person" in refused("tenants", "export-subject", acme, "--subject", "x", "--out", other)
    assert "either" in refused("tenants", "export-subject", acme, "--out", other)
