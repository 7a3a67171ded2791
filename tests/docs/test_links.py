"""Every link of the documents leads somewhere, as they are read in the repository; `make check` has the site's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.conftest import ROOT
from tests.docs.transcript import FENCE

LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]+))?\)|(?:href|src|srcset)=\"(?![a-z]+:)([^\"#]+)\"")
# Which of two pictures the site shows.
ON_THE_SITE = {"only-light", "only-dark"}
FOLDERS = (".", "docs", "docs/tutorials", "infra/client", "infra/vllm", "model/demo/checkpoint")
PAGES = [str(file.relative_to(ROOT)) for folder in FOLDERS for file in sorted((ROOT / folder).glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    file = ROOT / page
    assert [found[0] for found in LINK.finditer(prose(file)) if not leads_somewhere(file, found)] == []


def test_what_leads_nowhere_is_found() -> None:
    page = ROOT / "docs" / "index.md"
    found = [LINK.search(link) for link in ("[a](none.md)", "[a](api.md#none)", "[a](api.md#errors)", "[a](../api)")]
    assert [leads_somewhere(page, one) for one in found if one] == [False, False, True, True]


def leads_somewhere(page: Path, found: re.Match[str]) -> bool:
    """Whether there is such a file, and such a heading in it."""
    target = page.parent / (found[1] or found[3] or page.name)
    anchor = found[2] if found[2] not in ON_THE_SITE else None
    return target.exists() and (anchor is None or anchor in anchors(target))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Its headings, as links name them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}
