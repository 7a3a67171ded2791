"""`telltale submit`: send images to a service over HTTP, as a platform would, and see what it says of them."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import click
from rich.live import Live
from rich.table import Table

from infra.client import Client, ClientError
from infra.printing import as_json_option, console, print_json, table
from moderation.vocabulary import SETTLED, CaseStatus

POLL_S = 0.25


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE_OR_URL...")
@click.option("--key", envvar="TELLTALE_API_KEY", required=True, show_envvar=True, help="An API key of your tenant.")
@click.option(
    "--url",
    envvar="TELLTALE_PUBLIC_URL",
    default="http://127.0.0.1:8000",
    show_default=True,
    show_envvar=True,
    help="Where the service is.",
)
@click.option("--external-id", help="Your own id of the image; for one image only.")
@click.option("--wait", is_flag=True, help="Watch until every image is settled.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=300, show_default=True, help="Of --wait.")
@as_json_option
def submit(
    images: tuple[str, ...],
    key: str,
    url: str,
    external_id: str | None,
    wait: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Submit image files and links. Exits with 1 if one was refused or, with --wait, failed or is not settled."""
    if external_id is not None and len(images) > 1:
        raise click.UsageError("--external-id names one image; give one image.")
    client = Client(url, key)
    answers = [_submitted(client, image, external_id) for image in images]
    if wait:
        _watch(client, answers, timeout_s, silent=as_json)
    if as_json:
        print_json(answers)
    elif not wait:
        console().print(_table(answers))
    if any("error" in answer or answer["status"] == CaseStatus.FAILED for answer in answers):
        raise SystemExit(1)


def _submitted(client: Client, image: str, external_id: str | None) -> dict[str, Any]:
    """The case, or what is wrong: one image that is refused does not keep the others back."""
    try:
        if image.startswith(("http://", "https://")):
            return {"sent": image, **client.submit_link(image, external_id=external_id)}
        return {"sent": image, **client.submit_file(image, external_id=external_id)}
    except OSError as error:
        return {"sent": image, "error": f"It cannot be read: {error.strerror or error}."}
    except ClientError as error:
        return {"sent": image, "error": str(error)}


def _watch(client: Client, answers: list[dict[str, Any]], timeout_s: float, *, silent: bool) -> None:
    """Read the cases again until all are settled, and show it. Raises ClickException when the time is up."""
    deadline = time.monotonic() + timeout_s
    live = Live(console=console(), auto_refresh=False)
    with nullcontext() if silent else live:
        while True:
            waiting = [answer for answer in answers if not _is_settled(answer)]
            for answer in waiting:
                answer.update(client.case(answer["id"]))
            if not silent:
                live.update(_table(answers), refresh=True)
            if all(_is_settled(answer) for answer in answers):
                return
            if time.monotonic() > deadline:
                raise click.ClickException(f"Not all were settled within {timeout_s:g} s; they are kept and go on.")
            time.sleep(POLL_S)


def _is_settled(answer: dict[str, Any]) -> bool:
    return "error" in answer or answer["status"] in SETTLED


def _table(answers: list[dict[str, Any]]) -> Table:
    return table([_row(answer) for answer in answers])


def _row(answer: dict[str, Any]) -> dict[str, Any]:
    verdict, failure = answer.get("verdict") or {}, answer.get("failure") or {}
    return {
        "image": answer["sent"],
        "case": answer.get("id"),
        "status": "refused" if "error" in answer else answer["status"],
        "label": verdict.get("label"),
        "p_fake": f"{verdict['p_fake']:.3f}" if verdict else None,
        "explanation": verdict.get("explanation") or failure.get("detail") or answer.get("error"),
    }
