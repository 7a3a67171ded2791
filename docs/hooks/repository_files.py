"""Files of the repository that are pages too, and links from pages into the repository.

The same Markdown is read in the repository and on the site. A link to a file that is a page leads there, and one to a
file that a reference is made from leads to that reference; one to any other file has nowhere to lead on the site, and
stays as its text. A file that is not there at all is an error.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "infra/client/README.md": "client.md",
    "infra/vllm/README.md": "vllm.md",
    "model/demo/checkpoint/README.md": "demo-model.md",
}
# In the repository a reader is led to the source, on the site to what is made from it.
REFERENCES = {
    "api/events.py": "reference/events.md",
    "docs/openapi/v1.json": "reference/http.md",
    "infra/commands": "reference/commands.md",
    "moderation/settings.py": "reference/settings.md",
}
# The site looks like the dashboard.
ASSETS = {
    "api/dashboard/static/inter-latin.woff2": "assets/inter-latin.woff2",
    "api/dashboard/static/mark.svg": "assets/mark.svg",
}
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's own documents, and what the pages share with the dashboard."""
    for source, page in {**PAGES, **ASSETS}.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have each link lead to where its target is on the site."""
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return LINK.sub(lambda found: _link(found, source, page.file.src_uri), markdown)


def _link(found: re.Match[str], source: str, page: str) -> str:
    text, path, anchor = found[1], found[2], found[3] or ""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    made = {**PAGES, **REFERENCES}
    if target in made or target.startswith("docs/"):
        there = made.get(target, target.removeprefix("docs/"))
        return f"[{text}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{anchor})"
    if target == "README.md":
        return f"[{text}]({posixpath.relpath('index.md', posixpath.dirname(page) or '.')})"
    if not (ROOT / target).exists():
        raise PluginError(f"{source} links to {path}, and there is no {target}.")
    return text
