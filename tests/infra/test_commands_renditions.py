"""`telltale renditions`: every image in review gets its picture, and what cannot have one stops nothing."""

from __future__ import annotations

from click.testing import CliRunner
from sqlalchemy import Engine

from infra.cli import telltale
from infra.demo.samples import samples
from moderation import renditions
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Image
from moderation.vocabulary import CaseStatus
from tests.factories import make_case, make_image, make_tenant


def test_images_in_review_get_what_they_lack(db: Engine, bucket: str) -> None:
    store, data = Storage(settings()), samples()[0].path.read_bytes()
    with transaction() as session:
        tenant = make_tenant(session)
        shown, decided, broken, gone = (make_image(session, tenant) for _ in range(4))
        for image in (shown, broken, gone):
            make_case(session, tenant, CaseStatus.IN_REVIEW, image=image)
        make_case(session, tenant, CaseStatus.DECIDED, image=decided)
        for image, content in ((shown, data), (broken, b"no image"), (decided, data)):
            store.put(image.s3_key, content, "image/png")
            image.bytes = len(content)
    result = CliRunner().invoke(telltale, ["renditions"])
    assert result.exit_code == 0, result.output
    assert result.stdout == "Renditions made: 1.\n"
    assert str(broken.id) in result.stderr and str(gone.id) in result.stderr
    with transaction() as session:
        assert renditions.read(store, session.get_one(Image, shown.id))[:2] == b"\xff\xd8"
        assert session.get_one(Image, decided.id).rendition_key is None
    assert CliRunner().invoke(telltale, ["renditions"]).stdout == "Renditions made: 0.\n"
