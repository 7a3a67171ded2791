"""What is seen of a case's image: by whom, with which headers, and what is said where there is nothing to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from PIL import Image as Pixels
from sqlalchemy import select

from infra.demo.samples import samples
from moderation import cases, erasure, images, originals, tenants
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case, Image, Tenant
from moderation.vocabulary import CaseStatus, DecidedBy, Label, Role, View
from tests import images as pictures
from tests.api.dashboard.conftest import Browser
from tests.exhibiting import exhibit
from tests.factories import make_case, make_image, make_tenant, take_case
from tests.reviewing import make_review_case

FORENSIC = [View.ERROR_LEVEL, View.NOISE, View.SPECTRUM]


@pytest.fixture
def anna(browser_of: Callable[..., Browser]) -> Browser:
    return browser_of(Role.MODERATOR)


@pytest.fixture
def case_of(bucket: str, tenant: Tenant) -> Callable[..., UUID]:
    """Makes a case in review of an image that was sent."""

    def made(data: bytes, *, restricted: bool = False) -> UUID:
        store, limit = Storage(settings()), settings().max_image_pixels
        original = originals.keep(store, tenant.id, data, images.inspect(data, limit))
        with transaction() as session:
            image = originals.attach(session, original)
            case = make_review_case(session, tenant, image=image)
            case.restricted = restricted
        exhibit(store, image.id, images.upright(data, limit))
        return case.id

    return made


def url(case_id: UUID, what: str) -> str:
    return f"/dashboard/cases/{case_id}/{what}"


ALL = ["rendition", *(f"views/{view}" for view in View)]


@pytest.mark.parametrize("what", ALL)
def test_pictures_are_kept_by_nobody_and_are_what_they_say(
    anna: Browser, case_of: Callable[..., UUID], what: str
) -> None:
    answer = anna.get(url(case_of(samples()[0].path.read_bytes()), what))
    assert (answer.status_code, answer.mimetype) == (200, "image/jpeg")
    assert answer.headers["Cache-Control"] == "no-store" and answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.data[:2] == b"\xff\xd8"


@pytest.mark.parametrize("what", ALL)
def test_others_see_nothing(
    anna: Browser, browser_of: Callable[..., Browser], case_of: Callable[..., UUID], what: str
) -> None:
    case_id = case_of(samples()[0].path.read_bytes())
    restricted = case_of(samples()[1].path.read_bytes(), restricted=True)
    with transaction() as session:
        other = make_tenant(session, "Fotoforum")
    assert browser_of(Role.ADMIN, other).get(url(case_id, what)).status_code == 404
    assert anna.get(url(restricted, what)).status_code == 404
    assert browser_of(Role.LEAD).get(url(restricted, what)).status_code == 200


@pytest.mark.parametrize("what", ALL)
def test_what_was_erased_is_seen_no_more(anna: Browser, case_of: Callable[..., UUID], what: str) -> None:
    case_id = case_of(samples()[0].path.read_bytes())
    assert anna.get(url(case_id, what)).status_code == 200
    with transaction() as session:
        case = session.get_one(Case, case_id)
        assert case.image_id is not None
        erasure.erase(session, case.tenant_id, case.image_id, actor="test", request_id=None)
    assert anna.get(url(case_id, what)).status_code == 404


def test_a_case_without_an_image_says_so(anna: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        case = make_case(session, tenant, CaseStatus.FETCHING)
    for what in ALL:
        answer = anna.get(url(case.id, what))
        assert answer.status_code == 404 and "has not been fetched" in answer.text


def test_a_view_that_nobody_knows_is_not_found(anna: Browser, case_of: Callable[..., UUID]) -> None:
    answer = anna.get(url(case_of(samples()[0].path.read_bytes()), "views/x-ray"))
    assert answer.status_code == 404 and "error-level, noise, spectrum" in answer.text


def test_what_cannot_be_made_is_a_problem_in_words(anna: Browser, case_of: Callable[..., UUID]) -> None:
    narrow = case_of(pictures.encoded(Pixels.new("RGB", (9, 300), "teal")))
    answer = anna.htmx(url(narrow, f"views/{View.SPECTRUM}"))
    assert answer.status_code == 422 and "too small for a spectrum" in answer.text
    assert anna.get(url(narrow, f"views/{View.NOISE}")).status_code == 200


def test_bytes_that_no_longer_decode_are_a_problem_in_words(anna: Browser, case_of: Callable[..., UUID]) -> None:
    case_id = case_of(pictures.png(seed=99))
    with transaction() as session:
        image = session.get_one(Case, case_id).image
        assert image is not None
    Storage(settings()).put(image.s3_key, pictures.truncated_jpeg(), "image/jpeg")
    with transaction() as session:
        session.merge(image).bytes = len(pictures.truncated_jpeg())
    for view in View:
        answer = anna.htmx(url(case_id, f"views/{view}"))
        assert answer.status_code == 422 and "broken or cut off" in answer.text


@pytest.mark.parametrize("view", FORENSIC)
def test_the_page_offers_each_view_with_words(anna: Browser, case_of: Callable[..., UUID], view: View) -> None:
    case_id = case_of(samples()[0].path.read_bytes())
    assert f'data-url="{url(case_id, f"views/{view}")}"' in anna.get(f"/dashboard/cases/{case_id}").text


# --- What is beside the picture: the file's claims, and other cases of it ---


def twin_of(tenant: Tenant, image_id: UUID, *, restricted: bool = False, **fields: Any) -> UUID:
    """A decided case (fake) of the same image."""
    with transaction() as session:
        image = session.get_one(Image, image_id)
        case = make_case(session, tenant, CaseStatus.QUEUED, image=image, **fields)
        case.restricted = restricted
        first = session.scalars(select(Case).where(Case.image_id == image_id).order_by(Case.id)).first()
        assert first is not None
        take_case(session, case)
        assert first.verdict is not None
        cases.record_verdict(session, case, first.verdict, tenants.policy_of(session, tenant.id))
        cases.decide(session, case, Label.FAKE, DecidedBy.POLICY)
        return case.id


def review_case(tenant: Tenant, *, blind: bool = False, provenance: dict[str, Any] | None = None) -> tuple[UUID, UUID]:
    """A case in review and its image, whose file says this of its origin."""
    with transaction() as session:
        image = make_image(session, tenant, exhibited=True)
        image.provenance = provenance
        return make_review_case(session, tenant, blind=blind, image=image, external_id="this").id, image.id


CAMERA = {"exif": {"camera": "Canon EOS 5D", "position": True}}


@pytest.mark.parametrize("blind", [False, True])
def test_what_the_file_says_is_shown_as_a_claim_on_blind_cases_too(anna: Browser, tenant: Tenant, blind: bool) -> None:
    case_id, _ = review_case(tenant, blind=blind, provenance=CAMERA)
    page = anna.get(f"/dashboard/cases/{case_id}").text
    assert "Canon EOS 5D" in page and "Claims, not proof" in page and "present, not shown" in page


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "The file says nothing."),
        ({"unreadable": ["exif", "c2pa"]}, "Could not be read: EXIF, C2PA."),
        ({"xmp": {"source_types": ["trainedAlgorithmicMedia"]}}, "made by a trained model"),
        ({"xmp": {"source_types": ["somethingNew"]}}, "somethingNew"),
        (
            {"c2pa": {"state": "Invalid", "problems": ["assertion.dataHash.mismatch"], "actions": []}},
            "was changed after",
        ),
        ({"texts": [{"key": "prompt", "text": "<b>x</b>", "program": "ComfyUI"}]}, "&lt;b&gt;x&lt;/b&gt;"),
    ],
)
def test_claims_of_every_kind_have_words(anna: Browser, tenant: Tenant, said: dict[str, Any], words: str) -> None:
    case_id, _ = review_case(tenant, provenance=said)
    assert words in anna.get(f"/dashboard/cases/{case_id}").text


def test_an_image_whose_file_was_not_read_yet_claims_nothing(anna: Browser, tenant: Tenant) -> None:
    case_id, _ = review_case(tenant, provenance=None)
    assert "What the file says" not in anna.get(f"/dashboard/cases/{case_id}").text


def test_other_cases_of_the_image_are_listed_with_their_outcome(anna: Browser, tenant: Tenant) -> None:
    case_id, image_id = review_case(tenant)
    assert "Other cases" not in anna.get(f"/dashboard/cases/{case_id}").text
    twin = twin_of(tenant, image_id, external_id="the-twin")
    page = anna.get(f"/dashboard/cases/{case_id}").text
    table = page[page.index("Other cases of this image") : page.index("</details>", page.index("Other cases"))]
    assert f'href="/dashboard/cases/{twin}"' in table and "the-twin" in table and "the same" in table
    assert '<span class="badge badge-bad">fake</span>' in table


def test_on_a_blind_case_their_outcome_is_hidden_and_the_way_to_it(anna: Browser, tenant: Tenant) -> None:
    case_id, image_id = review_case(tenant, blind=True)
    twin = twin_of(tenant, image_id, external_id="the-twin")
    page = anna.get(f"/dashboard/cases/{case_id}").text
    table = page[page.index("Other cases of this image") : page.index("</details>", page.index("Other cases"))]
    assert "the-twin" in table and "hidden" in table
    assert "fake" not in table and str(twin) not in table


def test_restricted_ones_are_for_leads_only(anna: Browser, browser_of: Callable[..., Browser], tenant: Tenant) -> None:
    case_id, image_id = review_case(tenant)
    twin_of(tenant, image_id, restricted=True, external_id="the-twin")
    assert "the-twin" not in anna.get(f"/dashboard/cases/{case_id}").text
    assert "the-twin" in browser_of(Role.LEAD).get(f"/dashboard/cases/{case_id}").text
