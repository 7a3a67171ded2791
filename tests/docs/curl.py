"""As much of curl as the documents use: a machine that runs the tests need not have it.

Any option that is not here is an error, so that an example cannot mean more than is tried.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import urllib3


def main(arguments: list[str]) -> int:
    """Send one request; print the body of the answer. 22 where it is an error, as under curl --fail-with-body."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-F", dest="form", action="append", default=[])
    parser.add_argument("-X", dest="method")
    parser.add_argument("-o", dest="output")
    parser.add_argument("--json")
    parser.add_argument("url")
    said = parser.parse_args(arguments)
    headers = dict(header.split(": ", 1) for header in said.headers)
    body: bytes | None = None
    if said.form:
        body, headers["content-type"] = urllib3.encode_multipart_formdata([_part(part) for part in said.form])
    elif said.json is not None:
        body, headers["content-type"] = _data(said.json), "application/json"
    method = said.method or ("POST" if body is not None else "GET")
    answer = urllib3.request(method, said.url, body=body, headers=headers, retries=False)
    with Path(said.output).open("wb") if said.output else sys.stdout.buffer as output:
        output.write(answer.data)
    return 22 if answer.status >= 400 else 0


def _part(part: str) -> tuple[str, str | tuple[str, bytes]]:
    name, _, value = part.partition("=")
    return name, (Path(value[1:]).name, Path(value[1:]).read_bytes()) if value.startswith("@") else value


def _data(said: str) -> bytes:
    return Path(said[1:]).read_bytes() if said.startswith("@") else said.encode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
