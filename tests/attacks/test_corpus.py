"""Every file of two decoders' own test corpora goes through what the service does with a file, in the real sandbox.

Each either becomes pixels within the limits, the same wherever they are decoded, or is refused by name. What is larger
than LARGEST is a well-formed photograph, whose decoding takes seconds and shows nothing more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from model.decode import to_rgb
from moderation import images, provenance, views
from moderation.errors import BadImage
from moderation.sandbox import Sandbox
from moderation.settings import settings
from tests.api.conftest import Client, client
from tests.attacks import corpus

__all__ = ["client"]

LARGEST = 1_500_000  # bytes
EVERY = 16  # of the files, one goes all the way through the API
ACCEPTED_AT_LEAST, REFUSED_AT_LEAST = 700, 350


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """As a worker has it."""
    limits = settings()
    box = Sandbox(limits.decode_processes, limits.decode_memory_bytes, limits.decode_timeout_s)
    yield box
    box.close()


def files() -> list[tuple[str, bytes]]:
    return [(name, data) for name, data in corpus.files() if len(data) <= LARGEST]


def test_every_file_becomes_pixels_or_is_refused_by_name(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(settings().decode_processes) as threads:
        outcomes = dict(threads.map(lambda file: (file[0], outcome(sandbox, file[1])), files()))
    wrong = {name: what for name, what in outcomes.items() if what not in ("accepted", "refused")}
    assert not wrong, json.dumps(wrong, indent=2)
    counted = Counter(outcomes.values())
    assert counted["accepted"] >= ACCEPTED_AT_LEAST and counted["refused"] >= REFUSED_AT_LEAST, counted


def outcome(sandbox: Sandbox, data: bytes) -> str:
    """`accepted`, `refused`, or what went wrong: a crash, a limit, an accident, or two who do not agree on the file."""
    limit = settings().max_image_pixels
    try:
        facts = sandbox.call(images.inspect, data, limit)
    except BadImage as error:
        return "refused" if "send " in error.message else f"refused without advice: {error.message}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the file's line in the report
        return f"at intake: {error!r}"
    try:
        pixels = sandbox.call(to_rgb, data, max_pixels=limit)
        shown = sandbox.call(views.made, data, views.View.FULL, limit)
        said = sandbox.call(provenance.read, data, facts.media_type)
    except Exception as error:  # noqa: BLE001
        return f"accepted, then: {error!r}"
    if pixels.mode != "RGB" or pixels.size != (facts.width, facts.height):
        return f"accepted as {facts}, decoded as {pixels.mode} {pixels.size}"
    if not shown.startswith(b"\xff\xd8\xff") or len(json.dumps(said)) > 200_000:
        return f"accepted, shown as {shown[:4]!r}, with {said}"
    return "accepted"


def test_no_file_is_answered_with_an_error_of_ours(client: Client) -> None:
    answers = {name: client.send(data, name=name.rpartition("/")[2]) for name, data in files()[::EVERY]}
    for name, answer in answers.items():
        problem = answer.mimetype == "application/problem+json"
        assert (answer.status_code == 202 and not problem) or (answer.status_code in (413, 415, 422) and problem), name
    assert len({answer.status_code for answer in answers.values()}) >= 3
