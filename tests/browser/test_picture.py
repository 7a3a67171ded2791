"""The picture of the case page in real Chromium: deep zoom, loupe and views, by keys, and always under its veils."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BytesIO
from typing import TypeVar
from uuid import UUID

import numpy as np
import pytest
from PIL import Image as Pixels
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Page, Response, expect

from infra.demo.samples import samples
from moderation import cases, images, originals
from moderation.db import new_id, transaction
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case
from moderation.vocabulary import Label, Role
from tests.browser.conftest import TIMEOUT_MS, Dashboard, tenant_named
from tests.exhibiting import exhibit
from tests.images import encoded
from tests.moderation.test_provenance import camera_exif, signed
from tests.reviewing import make_review_case

ANNA = "anna@pixelgram.example"
Look = Callable[[Page, str], None]
T = TypeVar("T")


def case_of(data: bytes, name: str = "upload-4711", **fields: object) -> UUID:
    """A case in review of Pixelgram's, with an image of these bytes and its rendition, as screening leaves them."""
    store, limit = Storage(settings()), settings().max_image_pixels
    with transaction() as session:
        tenant = tenant_named(session, "Pixelgram")
    original = originals.keep(store, tenant.id, data, images.inspect(data, limit))
    with transaction() as session:
        image = originals.attach(session, original)
        case_id = make_review_case(session, tenant, image=image, external_id=name, **fields).id
    exhibit(store, image.id, images.upright(data, limit))
    return case_id


def photograph(width: int = 3000, height: int = 2000) -> bytes:
    """One with a pattern that only all of its pixels show: columns of black and white in the middle."""
    pixels = np.full((height, width, 3), (30, 120, 160), dtype=np.uint8)
    middle = pixels[height // 2 - 200 : height // 2 + 200, width // 2 - 200 : width // 2 + 200]
    middle[:, 0::2], middle[:, 1::2] = 0, 255
    return encoded(Pixels.fromarray(pixels), "PNG")


def opened(dashboard: Dashboard, case_id: UUID) -> Page:
    """The case's page, its viewer ready."""
    dashboard.person(ANNA, Pixelgram=Role.MODERATOR)
    page = dashboard.sign_in(ANNA, f"/dashboard/cases/{case_id}")
    expect(page.locator(".picture.open")).to_be_attached()
    return page


def soon(page: Page, look: Callable[[], T], fits: Callable[[T], bool]) -> T:
    """What is seen as soon as it fits: zooming and drawing take their time. What was seen last where it never does."""
    until = time.monotonic() + TIMEOUT_MS / 1000
    while not fits(seen := look()) and time.monotonic() < until:
        page.wait_for_timeout(50)
    return seen


def zoom_of(page: Page) -> int:
    """In per cent of the image's own pixels, as the page says."""
    return int(page.locator("[data-zoom]").inner_text().split()[0])


def middle(page: Page, selector: str = ".picture", side: int = 60) -> np.ndarray:
    """What is seen in the middle of a part of the page: (side, side, 3)."""
    shot = Pixels.open(BytesIO(page.locator(selector).first.screenshot())).convert("RGB")
    left, top = (shot.width - side) // 2, (shot.height - side) // 2
    return np.asarray(shot.crop((left, top, left + side, top + side)), dtype=float)


@pytest.mark.usefixtures("bucket")
class TestViewer:
    def test_zooming_in_loads_and_shows_the_real_pixels(self, dashboard: Dashboard) -> None:
        asked: list[Response] = []
        page = opened(dashboard, case_of(photograph()))
        page.on("response", lambda answer: asked.append(answer))
        page.reload()
        expect(page.locator(".picture.open")).to_be_attached()
        for key in ("b", "g"):
            page.keyboard.press(key)
        page.wait_for_timeout(700)
        assert middle(page).std() < 60, "columns of one pixel cannot be seen at this size"
        assert not any("/views/" in answer.url for answer in asked)
        with page.expect_response("**/views/full"):
            page.keyboard.press("p")
        expect(page.locator("[data-zoom]")).to_have_text("100 %")

        def alternating() -> float:
            """How much of a row is black and white by turns."""
            return float((np.abs(np.diff(middle(page)[30, :, 0])) > 200).mean())

        assert soon(page, alternating, lambda share: share > 0.9) > 0.9
        assert len([answer for answer in asked if answer.url.endswith("/views/full")]) == 1
        assert len([answer for answer in asked if answer.url.endswith("/rendition")]) == 1, "loaded once"

    def test_keys_zoom_move_turn_and_mirror(self, dashboard: Dashboard) -> None:
        corners = np.zeros((600, 600, 3), dtype=np.uint8)
        corners[:300, :300], corners[:300, 300:], corners[300:, :300] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
        page = opened(dashboard, case_of(encoded(Pixels.fromarray(corners))))
        for key in ("b", "g"):
            page.keyboard.press(key)

        def quarters() -> str:
            """Their colours, clockwise from the upper left."""
            spots = middle(page, side=200)
            four = [spots[20, 20], spots[20, -20], spots[-20, -20], spots[-20, 20]]
            return "".join("rgb"[int(spot.argmax())] if spot.max() > 120 else "k" for spot in four)

        def assert_seen(colours: str) -> None:
            assert soon(page, quarters, colours.__eq__) == colours

        assert_seen("rgkb")
        page.keyboard.press("o")
        assert_seen("brgk")
        page.keyboard.press("y")
        assert_seen("rbkg")
        page.keyboard.press("y")
        for _ in range(3):
            page.keyboard.press("o")
        assert_seen("rgkb")
        before = zoom_of(page)
        for _ in range(4):
            page.keyboard.press("+")
        assert soon(page, lambda: zoom_of(page), lambda zoom: zoom > 3 * before) > 3 * before
        for _ in range(8):
            page.keyboard.press("Shift+ArrowRight")
        assert_seen("ggkk")
        page.keyboard.press("0")
        assert_seen("rgkb")
        expect(page.locator("[data-zoom]")).to_have_text(f"{before} %")

    def test_the_loupe_shows_what_is_under_the_pointer_however_the_image_lies(self, dashboard: Dashboard) -> None:
        corners = np.zeros((600, 600, 3), dtype=np.uint8)
        corners[:300, :300], corners[:300, 300:], corners[300:, :300] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
        page = opened(dashboard, case_of(encoded(Pixels.fromarray(corners))))
        for key in ("b", "g", "x"):
            page.keyboard.press(key)
        expect(page.get_by_role("button", name="Loupe")).to_have_attribute("aria-pressed", "true")
        box = page.locator(".picture").bounding_box()
        assert box
        for turns, colour in (("", (255, 0, 0)), ("o", (0, 0, 255)), ("y", (255, 0, 0)), ("o", (0, 255, 0))):
            if turns:
                page.keyboard.press(turns)
            # To the left of the middle and above it, so that the quarter's own colour fills the loupe.
            page.mouse.move(box["x"] + box["width"] / 2 - 130, box["y"] + box["height"] / 2 - 130)

            def difference(colour: tuple[int, int, int] = colour) -> float:
                return float(np.abs(middle(page, "[data-loupe]", side=40) - colour).max())

            assert soon(page, difference, lambda most: most < 12) < 12, (turns, colour)

    def test_a_wheel_zooms_and_a_hand_moves(self, dashboard: Dashboard) -> None:
        page = opened(dashboard, case_of(photograph()))
        box = page.locator(".picture").bounding_box()
        assert box
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        before = zoom_of(page)
        page.mouse.move(x, y)
        page.mouse.wheel(0, -600)
        assert soon(page, lambda: zoom_of(page), lambda zoom: zoom > before) > before
        expect(page.locator(".picture.zoomed")).to_be_attached()

    def test_the_viewers_own_keys_do_not_answer_the_case_nor_the_pages_keys_turn_the_image(
        self, dashboard: Dashboard
    ) -> None:
        page = opened(dashboard, case_of(photograph()))
        page.locator(".picture").click()
        page.keyboard.press("r")
        page.keyboard.press("f")
        page.keyboard.press("2")
        page.wait_for_timeout(700)
        expect(page.get_by_role("heading", level=1)).to_have_text("upload-4711")
        assert page.evaluate("document.activeElement.className") == "openseadragon-canvas"

    def test_nothing_moves_while_it_loads(self, dashboard: Dashboard) -> None:
        dashboard.person(ANNA, Pixelgram=Role.MODERATOR)
        page = dashboard.sign_in(ANNA)
        # But for the words on buttons, whose font comes when it comes.
        page.add_init_script("""window.moved = []; new PerformanceObserver((list) => {
            const nodes = list.getEntries().flatMap((entry) => entry.sources.map((source) => source.node));
            window.moved.push(...nodes.filter((one) => one?.closest?.(".case") && !one.closest("button"))
                .map((one) => one.outerHTML.slice(0, 80)));
        }).observe({type: "layout-shift", buffered: true})""")
        page.goto(f"/dashboard/cases/{case_of(photograph())}")
        expect(page.locator(".picture.open")).to_be_attached()
        page.wait_for_timeout(700)
        assert page.evaluate("window.moved") == []

    def test_without_scripts_there_is_the_plain_image_under_its_veil(self, dashboard: Dashboard) -> None:
        dashboard.person(ANNA, Pixelgram=Role.MODERATOR)
        case_id = case_of(photograph())
        signed_in = dashboard.sign_in(ANNA)
        context = dashboard.browser.new_context(
            base_url=dashboard.url, java_script_enabled=False, storage_state=signed_in.context.storage_state()
        )
        context.set_default_timeout(TIMEOUT_MS)
        dashboard.contexts.append(context)
        page = context.new_page()
        page.goto(f"/dashboard/cases/{case_id}")
        image = page.get_by_alt_text("The image to be judged")
        expect(image).to_be_visible()
        expect(image).to_have_css("filter", "blur(24px) grayscale(1)")
        expect(page.get_by_role("toolbar")).to_be_hidden()


@pytest.mark.usefixtures("bucket")
class TestVeils:
    """Nothing of the image is seen sharp or in colour, wherever it is drawn, until somebody says so."""

    @pytest.mark.parametrize("zoomed", [False, True])
    def test_they_cover_canvas_minimap_and_loupe(self, dashboard: Dashboard, zoomed: bool) -> None:
        stripes = np.zeros((900, 900, 3), dtype=np.uint8)
        stripes[:, ::60], stripes[:, 30::60] = (255, 0, 0), (255, 255, 0)
        for offset in range(30):
            stripes[:, offset::60] = (255, 0, 0)
        page = opened(dashboard, case_of(encoded(Pixels.fromarray(stripes))))
        if zoomed:
            before = zoom_of(page)
            for _ in range(6):
                page.keyboard.press("+")
            assert soon(page, lambda: zoom_of(page), lambda zoom: zoom > 6 * before) > 6 * before
        page.keyboard.press("x")
        expect(page.locator("[data-loupe]")).to_be_visible()
        page.wait_for_timeout(700)
        for place in (".picture", "[data-loupe]", *((".navigator",) if zoomed else ())):
            veiled = middle(page, place, side=100)
            assert np.ptp(veiled, axis=2).max() < 3, f"{place} is grey"
            assert np.abs(np.diff(veiled[:, :, 0], axis=1)).max() < 25, f"{place} is blurred"
        page.keyboard.down("v")

        def colour() -> float:
            """Of the loupe: how far it is from grey."""
            return float(np.ptp(middle(page, "[data-loupe]", side=100), axis=2).max())

        def edge() -> float:
            """Of the loupe: how sharp it is."""
            return float(np.abs(np.diff(middle(page, "[data-loupe]", side=100)[:, :, 1], axis=1)).max())

        assert soon(page, colour, lambda most: most > 200) > 200
        assert soon(page, edge, lambda most: most > 100) > 100
        page.keyboard.up("v")
        assert soon(page, colour, lambda most: most < 3) < 3

    def test_each_is_switched_by_itself(self, dashboard: Dashboard) -> None:
        page = opened(dashboard, case_of(photograph()))
        stage = page.locator("[data-stage]")
        expect(stage).to_have_css("filter", "blur(24px) grayscale(1)")
        page.keyboard.press("b")
        expect(stage).to_have_css("filter", "grayscale(1)")
        page.keyboard.press("g")
        expect(stage).to_have_css("filter", "none")


@pytest.mark.usefixtures("bucket")
def test_the_views_are_made_when_asked_for_and_say_what_they_do_not_prove(dashboard: Dashboard, look: Look) -> None:
    page = opened(dashboard, case_of(samples()[3].path.read_bytes()))
    for key in ("b", "g"):
        page.keyboard.press(key)
    words = page.locator("[data-view-words]")
    for name, says in (("error-level", "proves nothing"), ("noise", "so may"), ("spectrum", "make them too")):
        page.keyboard.press("c")
        expect(page.locator(f"[data-shows={name}]")).to_be_attached()
        expect(words).to_contain_text(says)
        page.wait_for_timeout(500)
        look(page, f"case-view-{name}")
    page.keyboard.press("c")
    expect(words).to_contain_text("The image, upright")


@pytest.mark.usefixtures("bucket")
def test_a_view_that_cannot_be_made_says_why(dashboard: Dashboard) -> None:
    page = opened(dashboard, case_of(encoded(Pixels.new("RGB", (12, 200), "teal"))))
    page.get_by_role("button", name="Spectrum").click()
    expect(page.locator("[data-view-words]")).to_contain_text("too small for a spectrum")


def exhibited(case_id: UUID) -> None:
    """As screening leaves the case's image: with provenance and likeness too."""
    store = Storage(settings())
    with transaction() as session:
        image = session.get_one(Case, case_id).image
        assert image is not None
    data = store.get(image.s3_key, max_bytes=image.bytes)
    exhibit(store, image.id, images.upright(data, settings().max_image_pixels), data)


def generated() -> bytes:
    """A picture that says in several ways that it was generated, and by what."""
    with Pixels.open(samples()[1].path) as opened_:
        image = opened_.convert("RGB")
    said = PngInfo()
    said.add_text(
        "parameters",
        "a statue in the evening sun, detailed\nNegative prompt: people, text\nSteps: 28, Sampler: "
        "DPM++ 2M, CFG scale: 6.5, Seed: 4013257, Size: 512x512, Model: dreamlike-7",
    )
    data = encoded(image, "PNG", pnginfo=said, exif=camera_exif())
    return signed(data, "image/png")


@pytest.mark.usefixtures("bucket")
def test_the_page_says_what_the_file_says_and_where_the_image_was_before(dashboard: Dashboard, look: Look) -> None:
    earlier = case_of(generated(), "upload-1203")
    exhibited(earlier)
    with transaction() as session:
        case = session.get_one(Case, earlier)
        cases.rule(session, case, Label.FAKE, actor=f"user:{new_id()}", review_id=new_id())
    with Pixels.open(BytesIO(generated())) as opened_:
        smaller = encoded(opened_.convert("RGB").resize((300, 300)), "JPEG", exif=camera_exif())
    case_id = case_of(smaller, "upload-4711")
    exhibited(case_id)
    page = opened(dashboard, case_id)
    similar = page.locator(".similar")
    expect(similar).to_contain_text("upload-1203")
    expect(similar).to_contain_text("fake")
    for key in ("b", "g"):
        page.keyboard.press(key)
    look(page, "case-similar")
    similar.get_by_role("link", name="upload-1203").click()
    expect(page.locator(".picture.open")).to_be_attached()
    origin = page.locator(".origin")
    expect(origin.locator("summary")).to_contain_text("generated")
    origin.locator("summary").click()
    for words in ("Claims, not proof", "Camera 1, Example", "made by a trained model", "Stable Diffusion", "Canon"):
        expect(origin).to_contain_text(words)
    look(page, "case-provenance")
