"""Pictures for browsers: upright, 8-bit, of a size that displays, and of the very pixels that the model sees."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image as Pixels

from infra.demo.samples import samples
from model.decode import to_rgb
from moderation import images, views
from moderation.errors import BadImage, ImageTooLarge, Undecodable
from moderation.vocabulary import View
from tests import images as pictures

LIMIT = 1_000_000


def opened(data: bytes) -> Pixels.Image:
    return Pixels.open(BytesIO(data))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (640, 480)), ((4096, 2048), (2048, 1024)), ((3, 6000), (1, 2048)), ((2048, 2048), (2048, 2048))],
)
def test_a_picture_displays_and_is_no_larger_than_it_need_be(size: tuple[int, int], expected: tuple[int, int]) -> None:
    pixels = Pixels.new("RGB", size, "teal")
    made = opened(views.encoded(pixels))
    assert (made.format, made.mode, made.size) == ("JPEG", "RGB", expected)
    assert pixels.size == size, "what is judged stays as it is"


def test_sixteen_bits_turned_by_exif_come_out_as_eight_upright_and_without_metadata() -> None:
    gradient = np.linspace(0, 65535, 60 * 40, dtype=np.uint16).reshape(40, 60)
    sent = BytesIO()
    exif = Pixels.Exif()
    exif[0x0112], exif[0x010E] = 6, "taken at home"
    Pixels.fromarray(gradient).save(sent, "PNG", exif=exif)
    made = opened(views.made(sent.getvalue(), View.FULL, LIMIT))
    assert made.size == (40, 60) and made.getextrema()[0][1] > 250
    assert not made.getexif() and "exif" not in made.info


def test_the_full_picture_has_all_pixels_up_to_what_browsers_take() -> None:
    sent = pictures.encoded(Pixels.new("RGB", (3000, 40), "teal"), "PNG")
    assert opened(views.made(sent, View.FULL, LIMIT)).size == (3000, 40)
    wide = pictures.encoded(Pixels.new("RGB", (views.FULL_SIDE * 2, 40), "teal"), "PNG")
    assert opened(views.made(wide, View.FULL, LIMIT)).size == (views.FULL_SIDE, 20)


SENT = {
    **{sample.path.name: sample.path.read_bytes() for sample in samples()},
    **{mode: pictures.encoded(pictures.picture(mode)) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")},
    **{kind: pictures.encoded(pictures.picture(), kind) for kind in ("WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")},
    "cmyk": pictures.encoded(pictures.picture("CMYK"), "JPEG"),
    "transparent": pictures.palette_with_transparency(),
    "turned": pictures.turned_by_exif(),
    "animated": pictures.animation("GIF"),
}


@pytest.mark.parametrize("name", SENT)
def test_moderators_see_the_pixels_that_the_model_sees(name: str) -> None:
    assert np.array_equal(np.asarray(images.upright(SENT[name], LIMIT)), np.asarray(to_rgb(SENT[name])))


@pytest.mark.parametrize("view", View)
def test_every_view_of_a_photograph_is_a_picture(view: View) -> None:
    made = opened(views.made(samples()[0].path.read_bytes(), view, LIMIT))
    assert made.format == "JPEG" and max(made.size) <= views.LONGEST_SIDE
    assert np.asarray(made).std() > 5


@pytest.mark.parametrize("view", View)
@pytest.mark.parametrize(
    ("sent", "error", "words"),
    [
        (b"", Undecodable, "empty"),
        (pictures.truncated_jpeg(), Undecodable, "broken or cut off"),
        (pictures.png_claiming(40_000, 40_000), ImageTooLarge, "40000"),
        (pictures.encoded(pictures.picture("F"), "TIFF"), Undecodable, "Floating-point"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_words(sent: bytes, error: type[BadImage], words: str, view: View) -> None:
    with pytest.raises(error, match=words):
        views.made(sent, view, LIMIT)
