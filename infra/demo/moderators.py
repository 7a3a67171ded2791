"""The demo's moderators: scripted people, who work in the dashboard as anybody does, page by page.

They sign in, have the next case given to them, read what the model said, grade it sentence by sentence, answer, and are
led to the next one. They know what each picture really is, which is all they have in advance of real moderators.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import CookieJar

from infra.demo.halftones import Picture
from moderation.errors import TelltaleError

QUEUE = "/dashboard/queue"
CASE = re.compile(r"/dashboard/cases/([0-9a-f-]{36})\Z")
SENTENCE = re.compile(r"(?<=[.!?])\s+")
TIMEOUT_S = 60.0


class PageRefused(TelltaleError):
    """A page of the dashboard was not what a moderator expects; the message says which, and what it said."""


@dataclass
class Page(HTMLParser):
    """One page: where it is, the hidden fields of its forms, and the model's sentences, if it shows any."""

    url: str
    html: str
    hidden: dict[str, str] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._in_sentence = False
        self.feed(self.html)

    @property
    def case_id(self) -> str | None:
        """Of the case that the page is about."""
        found = CASE.search(urllib.parse.urlsplit(self.url).path)
        return found[1] if found else None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember hidden fields; a sentence begins with its paragraph."""
        named = dict(attrs)
        if tag == "input" and named.get("type") == "hidden":
            self.hidden[named.get("name") or ""] = named.get("value") or ""
        if tag == "p" and (named.get("id") or "").startswith("said-"):
            self._in_sentence = True
            self.sentences.append("")

    def handle_endtag(self, tag: str) -> None:
        """A sentence ends with its paragraph."""
        self._in_sentence &= tag != "p"

    def handle_data(self, data: str) -> None:
        """Text counts where it is a sentence's."""
        if self._in_sentence:
            self.sentences[-1] += data


class Moderator:
    """One person in one browser. `pictures` are what is known of each case, by its id."""

    def __init__(self, url: str, email: str, password: str, pictures: Mapping[str, Picture]) -> None:
        self._url, self._email, self._password, self._pictures = url, email, password, pictures
        self._browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def work(self, answered: Callable[[], None]) -> int:
        """Sign in and answer cases until none is left; how many. `answered` is called after each.

        Raises PageRefused.
        """
        page = self._sign_in()
        count = 0
        while True:
            page = self._send(page, f"{QUEUE}/next")
            while page.case_id and "fence" in page.hidden:
                page = self._answer(page, page.case_id)
                count += 1
                answered()
            if page.case_id is None:
                return count

    def _sign_in(self) -> Page:
        form = self._open("/dashboard/sign-in")
        return self._send(form, "/dashboard/sign-in", {"email": self._email, "password": self._password})

    def _answer(self, page: Page, case_id: str) -> Page:
        """Answer this case; the page after it: the next case, what was hidden of this one, or an empty queue."""
        return self._send(page, f"/dashboard/cases/{case_id}/answer", reply(self._pictures[case_id], page.sentences))

    def _send(self, page: Page, path: str, fields: Mapping[str, str] | None = None) -> Page:
        """Send a form of `page`, with what is hidden in it."""
        return self._open(path, {**page.hidden, **(fields or {})})

    def _open(self, path: str, fields: Mapping[str, str] | None = None) -> Page:
        data = urllib.parse.urlencode(fields).encode() if fields is not None else None
        try:
            with self._browser.open(self._url + path, data, TIMEOUT_S) as answer:
                return Page(answer.url, answer.read().decode())
        except urllib.error.HTTPError as error:
            raise PageRefused(f"{path} was answered with {error.code} to {self._email}.") from error
        except urllib.error.URLError as error:
            raise PageRefused(f"The dashboard cannot be reached: {error.reason}") from error


def reply(picture: Picture, sentences: list[str]) -> dict[str, str]:
    """The form as somebody who knows the picture fills it in.

    Of the model's sentences those that are true are right, all others wrong; what it does not say is added.
    """
    true = SENTENCE.split(picture.said)
    grades = {f"grade-{place}": "right" if said in true else "wrong" for place, said in enumerate(sentences)}
    missed = [said for said in true[1:] if said not in sentences]
    return {"answer": picture.label, "additions": "\n".join(missed), **grades}
