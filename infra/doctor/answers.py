"""What an HTTP server answers to a plain question, in no more time than a check may take."""

from __future__ import annotations

import json
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from moderation.errors import Unreachable

TIMEOUT_S = 2.5


class NobodyHere(Unreachable):
    """Nothing listens at an address of this machine alone, which another machine may have too: a container's host."""


class Answer(NamedTuple):
    """A status and a body."""

    status: int
    data: bytes

    @property
    def is_ok(self) -> bool:
        """Whether what was asked for is in the body."""
        return self.status == HTTPStatus.OK

    @property
    def said(self) -> Any:
        """The body's JSON; nothing where it is none."""
        try:
            return json.loads(self.data)
        except ValueError:
            return {}


def asked(url: str) -> Answer:
    """What is answered at this address, which is ours to call. Raises Unreachable, of which NobodyHere is one kind."""
    try:
        with urllib3.PoolManager() as pool:
            answer = pool.request("GET", url, timeout=TIMEOUT_S, retries=False)
    except HTTPError as error:
        is_refused = isinstance(error.__cause__, ConnectionRefusedError)
        kind = NobodyHere if is_refused and _is_of_this_machine(urlsplit(url).hostname or "") else Unreachable
        raise kind(f"{urlsplit(url).netloc} does not answer.") from error
    return Answer(answer.status, answer.data)


def _is_of_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
