"""What a file says of where its picture comes from: EXIF, texts of image generators, XMP, C2PA. Claims, not proof.

Anybody can write any of it, and platforms strip most of it. Nothing is fetched from anywhere. Strangers wrote what is
parsed here, so `read` runs in a sandbox. It does not know what a picture shows.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from PIL import ExifTags, Image

from moderation import images

log = logging.getLogger(__name__)

Claims = dict[str, Any]
MAX_TEXT = 2000  # characters of one text
MAX_TEXTS = 20
MAX_ACTIONS = 20

# The key of a text in a PNG, or in what other formats keep for it, and which program is known to write it.
GENERATORS: Mapping[str, str] = {
    "parameters": "Stable Diffusion web UI (AUTOMATIC1111, Forge) or Fooocus",
    "prompt": "ComfyUI",
    "workflow": "ComfyUI",
    "invokeai_metadata": "InvokeAI",
    "invokeai_graph": "InvokeAI",
    "invokeai_workflow": "InvokeAI",
    "sd-metadata": "InvokeAI",
    "Dream": "InvokeAI",
    "fooocus_scheme": "Fooocus",
    "sui_image_params": "SwarmUI",
    "generation_data": "Tensor.Art",
}
# Texts that say something of the picture and that other programs write too.
TELLING = frozenset({"software", "comment", "description", "source", "title", "copyright", "creation time"})
# How AUTOMATIC1111 writes its parameters, wherever it has to put them.
_PARAMETERS = re.compile(r"\bSteps: \d+, .*\bSampler: ", re.DOTALL)
# IPTC's controlled vocabulary of digital source types, https://cv.iptc.org/newscodes/digitalsourcetype/
_SOURCE_TYPE = re.compile(r"https?://cv\.iptc\.org/newscodes/digitalsourcetype/(\w{1,60})")
_CREATOR_TOOL = re.compile(r"CreatorTool(?:=[\"']|>)([^\"'<]{1,200})")
_CREDIT = re.compile(r"photoshop:Credit(?:=[\"']|>)([^\"'<]{1,200})")
_REMOTE_MANIFEST = re.compile(r"dcterms:provenance(?:=[\"']|>)(https?://[^\"'<\s]{1,500})")
_USER_COMMENT_CODES = {b"UNICODE\0": "utf-16", b"ASCII\0\0\0": "ascii"}


def read(data: bytes, media_type: str) -> Claims:
    """What the file says, by where it says it: `exif`, `texts`, `xmp`, `c2pa`; a part that says nothing is left out.

    A part that is there and cannot be read is named in `unreadable`, and takes no other along. Texts are bounded, and
    can be stored in Postgres. Raises only MemoryError.
    """
    claims: Claims = {}
    unreadable = []
    for name, part in _PARTS.items():
        try:
            found = part(data, media_type)
        except MemoryError:
            raise
        # What strangers wrote makes parsers raise whatever they like.
        except Exception as error:
            log.info("%s that cannot be read: %s", name, error, exc_info=True)
            unreadable.append(name)
            continue
        if found:
            claims[name] = found
    if unreadable:
        claims["unreadable"] = unreadable
    return claims


def unread() -> Claims:
    """What is kept of a file that no reader survived."""
    return {"unreadable": list(_PARTS)}


def _exif(data: bytes, _: str) -> Claims:
    """Camera, software, date, and whether there is a position; never the position itself, nor any name."""
    with _opened(data) as image:
        exif = image.getexif()
        taken = exif.get_ifd(ExifTags.IFD.Exif)
        position = exif.get_ifd(ExifTags.IFD.GPSInfo)
    camera = " ".join(filter(None, (_text(exif.get(tag)) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))))
    said = {
        "camera": camera,
        "lens": _text(taken.get(ExifTags.Base.LensModel)),
        "software": _text(exif.get(ExifTags.Base.Software)),
        "taken": _text(taken.get(ExifTags.Base.DateTimeOriginal)),
        "changed": _text(exif.get(ExifTags.Base.DateTime)),
        "position": bool(position),
    }
    return {key: value for key, value in said.items() if value}


def _texts(data: bytes, _: str) -> list[Claims]:
    """Texts beside the picture (PNG's tEXt, zTXt and iTXt, comments of others), and which program writes such ones.

    Of a PNG those before its pixels, which is where generators write them.
    """
    with _opened(data) as image:
        found = [(str(key), _text(value)) for key, value in image.info.items() if isinstance(value, str | bytes)]
        comment = _user_comment(image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment))
    known = [(key, text) for key, text in found if text and (key in GENERATORS or key.casefold() in TELLING)]
    if comment:
        known.append(("UserComment", comment))
    return [{"key": key, "text": text, "program": _program(key, text)} for key, text in known[:MAX_TEXTS]]


def _program(key: str, text: str) -> str | None:
    if _PARAMETERS.search(text):
        return GENERATORS["parameters"]
    if text.startswith("NovelAI"):
        return "NovelAI"
    return GENERATORS.get(key)


def _user_comment(value: Any) -> str | None:
    """EXIF's UserComment: 8 bytes that name the encoding, and the text (Exif 2.32, 4.6.5)."""
    if not isinstance(value, bytes):
        return _text(value)
    encoding = _USER_COMMENT_CODES.get(value[:8], "utf-8")
    if encoding == "utf-16":
        # In the byte order of the file, which writers get wrong: the one that reads as Latin letters is meant.
        encoding = "utf-16-be" if value[8:9] == b"\0" else "utf-16-le"
    return _text(value[8:].decode(encoding, "replace"))


def _xmp(data: bytes, _: str) -> Claims:
    """IPTC's digital source types, the tool, the credit line; and where a C2PA manifest is said to be."""
    with _opened(data) as image:
        packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or ""
    written = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet)
    said = {
        "source_types": sorted(set(_SOURCE_TYPE.findall(written)))[:MAX_TEXTS],
        "tool": _text(_first(_CREATOR_TOOL, written)),
        "credit": _text(_first(_CREDIT, written)),
        "remote_manifest": _text(_first(_REMOTE_MANIFEST, written)),
    }
    return {key: value for key, value in said.items() if value}


def _first(pattern: re.Pattern[str], written: str) -> str | None:
    found = pattern.search(written)
    return found[1] if found else None


def _c2pa(data: bytes, media_type: str) -> Claims:
    """The active manifest, where one is embedded. `state`: Invalid, Valid (its signer is on no list) or Trusted."""
    if b"c2pa" not in data:
        return {}
    # Here, for most files have none: the library takes a tenth of a second and memory to load.
    import c2pa

    offline = c2pa.Settings.from_dict({"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}})
    try:
        reader = c2pa.Reader(media_type, BytesIO(data), context=c2pa.Context(offline))
    except c2pa.C2paError.ManifestNotFound:
        return {}
    said = json.loads(reader.json())
    manifest = said["manifests"][said["active_manifest"]]
    signature = manifest.get("signature_info") or {}
    return {
        "state": _text(said.get("validation_state")),
        "problems": [_text(status.get("code")) for status in said.get("validation_status") or []][:MAX_TEXTS],
        "title": _text(manifest.get("title")),
        "generator": _generator(manifest),
        "signer": _text(signature.get("common_name")),
        "issuer": _text(signature.get("issuer")),
        "signed": _text(signature.get("time")),
        "actions": _actions(manifest),
    }


def _generator(manifest: Mapping[str, Any]) -> str | None:
    infos = manifest.get("claim_generator_info") or []
    named = [" ".join(filter(None, (_text(info.get("name")), _text(info.get("version"))))) for info in infos]
    return _text(", ".join(named)) or _text(manifest.get("claim_generator"))


def _actions(manifest: Mapping[str, Any]) -> list[Claims]:
    """What was done to the picture, as the manifest tells it (C2PA specification 2.2, c2pa.actions)."""
    told = [
        action
        for assertion in manifest.get("assertions") or []
        if str(assertion.get("label")).startswith("c2pa.actions")
        for action in (assertion.get("data") or {}).get("actions") or []
    ]
    return [
        {
            "action": _text(action.get("action")),
            "source_type": _text(_first(_SOURCE_TYPE, str(action.get("digitalSourceType")))),
            "agent": _agent(action.get("softwareAgent")),
        }
        for action in told[:MAX_ACTIONS]
    ]


def _agent(agent: Any) -> str | None:
    return _text(agent.get("name") if isinstance(agent, dict) else agent)


_PARTS: Mapping[str, Callable[[bytes, str], Any]] = {"exif": _exif, "texts": _texts, "xmp": _xmp, "c2pa": _c2pa}


def _opened(data: bytes) -> Image.Image:
    """The file with its header read, and no pixels."""
    with images.our_limit_only():
        return Image.open(BytesIO(data))


def _text(value: Any) -> str | None:
    """A text as it can be stored and shown: bounded, without NULs and other control characters; None for nothing."""
    if value is None:
        return None
    written = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    written = written.encode("utf-8", "replace").decode()
    kept = "".join(letter for letter in written[: 4 * MAX_TEXT] if letter >= " " or letter in "\n\t").strip()
    return kept if len(kept) <= MAX_TEXT else kept[:MAX_TEXT] + " …"
