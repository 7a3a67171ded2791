"""`/dashboard/platforms/{id}/sources`: whose webhooks are taken, how they are read, and a form to try one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from api import problems
from api.auth import requires_role
from api.dashboard.access import person
from api.process import current
from moderation import inbound, sources
from moderation.db import transaction
from moderation.errors import Conflict, InvalidRequest
from moderation.sources import EDITABLE, POINTERS, SECRET
from moderation.tables import Source
from moderation.vocabulary import Role, SourceKind, SourceScheme

pages = Blueprint("sources", __name__)

SCHEMES = {
    SourceScheme.STANDARD: "Standard Webhooks (webhook-id, -timestamp, -signature)",
    SourceScheme.GITHUB: "GitHub's way (X-Hub-Signature-256)",
    SourceScheme.BEARER: "Bearer token (Authorization)",
}
KINDS = {SourceKind.JSON: "JSON with a link to the image", SourceKind.S3_EVENT: "S3 event notification"}
EXAMPLES = {
    SourceKind.JSON: {"data": {"image": {"url": "https://example.com/picture.jpg"}, "id": "post-17"}},
    SourceKind.S3_EVENT: {
        "Records": [
            {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "uploads"}, "object": {"key": "picture.jpg"}}}
        ]
    },
}
# In place of the secret, which is not shown again.
SECRET_VARIABLE = "$TELLTALE_SOURCE_SECRET"


@pages.get("/dashboard/platforms/<uuid:tenant_id>/sources")
@requires_role(Role.ADMIN)
def page(tenant_id: UUID) -> str:
    """All of the platform's sources."""
    with transaction() as session:
        found = sources.listed(session, tenant_id)
    return render_template("sources/page.html", sources=found, schemes=SCHEMES, kinds=KINDS)


@pages.get("/dashboard/platforms/<uuid:tenant_id>/sources/new")
@requires_role(Role.ADMIN)
def new(tenant_id: UUID) -> str:
    """The form for a new one."""
    return _new()


@pages.post("/dashboard/platforms/<uuid:tenant_id>/sources")
@requires_role(Role.ADMIN)
def create(tenant_id: UUID) -> AnyResponse | str:
    """A new source: the answer shows its secret, once, unless it is the platform's own."""
    own = request.form.get("secret", "").strip()
    try:
        with transaction() as session:
            said = _said(request.form)
            secret = {"secret": own, **{name: said.pop(name) for name in SECRET}}
            source = sources.create(session, Source(tenant_id=tenant_id, **said), **secret, actor=person().actor)
    except (InvalidRequest, Conflict) as error:
        return problems.beside(error, _new(error))
    if own:
        return redirect(_address("page_of", tenant_id, source.id, said="source_created"), 303)
    return _secret_page(source, "The source is made")


@pages.get("/dashboard/platforms/<uuid:tenant_id>/sources/<uuid:source_id>")
@requires_role(Role.ADMIN)
def page_of(tenant_id: UUID, source_id: UUID) -> str:
    """One source: where to post to, how it is read, and a form to try it."""
    return _page_of(tenant_id, source_id)


@pages.post("/dashboard/platforms/<uuid:tenant_id>/sources/<uuid:source_id>")
@requires_role(Role.ADMIN)
def change(tenant_id: UUID, source_id: UUID) -> AnyResponse:
    """Read its webhooks in another way from now on."""
    said = _said(request.form)
    # An empty field keeps the secret there is: it was never shown.
    wanted = {name: value for name, value in said.items() if name not in SECRET or value}
    try:
        with transaction() as session:
            source = sources.source_of(session, tenant_id, source_id)
            sources.change(session, source, wanted, actor=person().actor)
    except (InvalidRequest, Conflict) as error:
        return problems.beside(error, _page_of(tenant_id, source_id, error=error, typed=request.form))
    return redirect(_address("page_of", tenant_id, source_id, said="source_changed"), 303)


@pages.post("/dashboard/platforms/<uuid:tenant_id>/sources/<uuid:source_id>/secret")
@requires_role(Role.ADMIN)
def rotate(tenant_id: UUID, source_id: UUID) -> AnyResponse | str:
    """A new secret, shown once, or the platform's own; the one before is still taken."""
    own = request.form.get("secret", "").strip()
    try:
        with transaction() as session:
            source = sources.source_of(session, tenant_id, source_id)
            sources.rotate_secret(session, source, own or None, actor=person().actor)
    except InvalidRequest as error:
        return problems.beside(error, _page_of(tenant_id, source_id, error=error))
    if own:
        return redirect(_address("page_of", tenant_id, source_id, said="source_secret_set"), 303)
    return _secret_page(source, "The secret is new")


@pages.post("/dashboard/platforms/<uuid:tenant_id>/sources/<uuid:source_id>/disable")
@requires_role(Role.ADMIN)
def disable(tenant_id: UUID, source_id: UUID) -> AnyResponse:
    """Take no more of its webhooks."""
    with transaction() as session:
        sources.disable(session, sources.source_of(session, tenant_id, source_id), actor=person().actor)
    return redirect(_address("page_of", tenant_id, source_id, said="source_disabled"), 303)


@pages.post("/dashboard/platforms/<uuid:tenant_id>/sources/<uuid:source_id>/enable")
@requires_role(Role.ADMIN)
def enable(tenant_id: UUID, source_id: UUID) -> AnyResponse:
    """Take its webhooks again."""
    with transaction() as session:
        sources.enable(session, sources.source_of(session, tenant_id, source_id), actor=person().actor)
    return redirect(_address("page_of", tenant_id, source_id, said="source_enabled"), 303)


@pages.post("/dashboard/platforms/<uuid:tenant_id>/sources/<uuid:source_id>/try")
@requires_role(Role.ADMIN)
def try_out(tenant_id: UUID, source_id: UUID) -> str:
    """What would become of a webhook; nothing is submitted."""
    with transaction() as session:
        source = sources.source_of(session, tenant_id, source_id)
    # Browsers send a text's lines with CR LF; senders write LF, and the signature is over what they wrote.
    text = request.form.get("body", "").replace("\r\n", "\n")
    body = text.encode("utf-8", "replace")
    own = request.form.get("headers", "").strip()
    signed = inbound.signed(source, body)
    trial = inbound.try_out(source, _headers(own) if own else signed, body, current().settings)
    return _page_of(
        tenant_id, source_id, trial=trial, tried={"body": text, "headers": own, "curl": _curl(source, text)}
    )


def _headers(text: str) -> dict[str, str]:
    """Headers as they are pasted, a line each; what is no header is left out."""
    lines = (line.partition(":") for line in text.splitlines())
    return {name.strip().lower(): value.strip() for name, colon, value in lines if colon}


def _curl(source: Source, body: str) -> str:
    """A command line that sends this body for real, signed now; a bearer's secret is for its reader to put in."""
    headers = {"content-type": "application/json", **inbound.signed(source, body.encode("utf-8", "replace"))}
    lines = [f"curl {shlex.quote(_hook(source))}"]
    for name, value in headers.items():
        secret = name == "authorization"
        lines.append(
            f'  -H "authorization: Bearer {SECRET_VARIABLE}"' if secret else f"  -H {shlex.quote(f'{name}: {value}')}"
        )
    return " \\\n".join([*lines, f"  --data-binary {shlex.quote(body)}"])


def _said(form: Mapping[str, str]) -> dict[str, Any]:
    """The columns as the form has them; an empty field is none. Raises InvalidRequest for unknown words."""
    said: dict[str, Any] = {name: form.get(name, "").strip().replace("\x00", "") or None for name in EDITABLE}
    said["name"] = said["name"] or ""
    try:
        return said | {"scheme": SourceScheme(said["scheme"]), "kind": SourceKind(said["kind"])}
    except ValueError as error:
        raise InvalidRequest("Choose how the platform signs, and what its body is.", pointer="/scheme") from error


def _hook(source: Source) -> str:
    return f"{current().settings.public_url.rstrip('/')}/v1/hooks/{source.id}"


def _address(view: str, tenant_id: UUID, source_id: UUID, **query: str) -> str:
    return url_for(f"platforms.sources.{view}", tenant_id=tenant_id, source_id=source_id, **query)


def _new(error: InvalidRequest | Conflict | None = None) -> str:
    return render_template("sources/new.html", typed=request.form, **_form(error))


def _page_of(tenant_id: UUID, source_id: UUID, *, typed: Mapping[str, str] | None = None, **shown: Any) -> str:
    error = shown.pop("error", None)
    with transaction() as session:
        source = sources.source_of(session, tenant_id, source_id)
    return render_template(
        "sources/source.html",
        source=source,
        hook=_hook(source),
        typed=typed or {name: getattr(source, name) for name in EDITABLE if name not in SECRET},
        example=json.dumps(EXAMPLES[source.kind], indent=2),
        **{"trial": None, "tried": None, **shown},
        **_form(error),
    )


def _form(error: InvalidRequest | Conflict | None) -> dict[str, Any]:
    at_fault = (error.pointer or "").removeprefix("/") if error else None
    return {"schemes": SCHEMES, "kinds": KINDS, "pointers": POINTERS, "error": error, "at_fault": at_fault}


def _secret_page(source: Source, title: str) -> str:
    return render_template(
        "sources/secret.html", source=source, secret=sources.secrets_of(source)[0], hook=_hook(source), heading=title
    )
