"""`telltale renditions`: every judged image gets what it lacks, and what cannot be made stops nothing."""

from __future__ import annotations

from click.testing import CliRunner
from sqlalchemy import Engine, select

from infra.cli import telltale
from infra.demo.samples import samples
from moderation import exhibits, renditions
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Image, SimilarImage
from moderation.vocabulary import CaseStatus
from tests.factories import make_case, make_image, make_tenant


def test_judged_images_get_what_they_lack(db: Engine, bucket: str) -> None:
    store, data = Storage(settings()), samples()[0].path.read_bytes()
    with transaction() as session:
        tenant = make_tenant(session)
        shown, decided, broken, gone, waiting = (make_image(session, tenant) for _ in range(5))
        for image in (shown, broken, gone):
            make_case(session, tenant, CaseStatus.IN_REVIEW, image=image)
        make_case(session, tenant, CaseStatus.DECIDED, image=decided)
        make_case(session, tenant, CaseStatus.QUEUED, image=waiting)
        for image, content in ((shown, data), (broken, b"no image"), (decided, data)):
            store.put(image.s3_key, content, "image/png")
            image.bytes = len(content)
    result = CliRunner().invoke(telltale, ["renditions"])
    assert result.exit_code == 0, result.output
    assert result.stdout == "Images completed: 2.\n"
    assert str(broken.id) in result.stderr and str(gone.id) in result.stderr
    with transaction() as session:
        for image_id in (shown.id, decided.id):
            image = session.get_one(Image, image_id)
            assert renditions.read(store, image)[:2] == b"\xff\xd8" and exhibits.are_complete(session, image)
        assert session.scalars(select(SimilarImage.other_id).filter_by(image_id=shown.id)).all() == [decided.id]
        assert session.get_one(Image, waiting.id).rendition_key is None, "the worker will"
    assert CliRunner().invoke(telltale, ["renditions"]).stdout == "Images completed: 0.\n"
