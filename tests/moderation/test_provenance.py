"""Provenance: what files of every maker say is found, and files that lie, are broken or are hostile hurt nobody."""

from __future__ import annotations

import datetime
import json
from io import BytesIO

import c2pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from infra.demo.samples import samples
from moderation import provenance
from moderation.sandbox import Sandbox
from tests.images import encoded, picture, truncated_jpeg

TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description Iptc4xmpExt:DigitalSourceType="{TRAINED}"
 xmp:CreatorTool="Adobe Firefly" photoshop:Credit="Made with AI"
 dcterms:provenance="https://cai.example/manifests/1"/></rdf:RDF></x:xmpmeta>"""
PARAMETERS = "a cat on a mat\nNegative prompt: dogs\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1"
A1111 = provenance.GENERATORS["parameters"]


def png(**texts: str) -> bytes:
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key.replace("_", " "), text) if key != "invokeai_metadata" else info.add_itxt(key, text)
    return encoded(picture(), "PNG", pnginfo=info)


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Canon\0", "EOS 5D"
    exif[ExifTags.Base.Software], exif[ExifTags.Base.DateTime] = "GIMP 3.0", "2024:05:06 07:08:09"
    taken = exif.get_ifd(ExifTags.IFD.Exif)
    taken[ExifTags.Base.DateTimeOriginal], taken[ExifTags.Base.LensModel] = "2023:01:02 03:04:05", "50 mm"
    position = exif.get_ifd(ExifTags.IFD.GPSInfo)
    position[1], position[2] = "N", (52.0, 31.0, 7.0)
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
def test_exif_says_camera_software_and_date_and_only_whether_there_is_a_position(kind: str) -> None:
    said = provenance.read(encoded(picture(), kind, exif=camera_exif()), f"image/{kind.lower()}")
    assert said == {
        "exif": {
            "camera": "Canon EOS 5D",
            "lens": "50 mm",
            "software": "GIMP 3.0",
            "taken": "2023:01:02 03:04:05",
            "changed": "2024:05:06 07:08:09",
            "position": True,
        }
    }
    assert "52" not in json.dumps(said)


@pytest.mark.parametrize(
    ("texts", "program"),
    [
        ({"parameters": PARAMETERS}, A1111),
        ({"prompt": '{"3": {"class_type": "KSampler"}}'}, "ComfyUI"),
        ({"workflow": '{"nodes": []}'}, "ComfyUI"),
        ({"invokeai_metadata": '{"positive_prompt": "a cat"}'}, "InvokeAI"),
        ({"Dream": "a cat -s 50"}, "InvokeAI"),
        ({"Software": "NovelAI"}, "NovelAI"),
        ({"Description": "a cat, by hand"}, None),
    ],
)
def test_texts_of_generators_are_found_and_named(texts: dict[str, str], program: str | None) -> None:
    (said,) = provenance.read(png(**texts), "image/png")["texts"]
    assert {said["key"]: said["text"]} == texts and said["program"] == program


@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_parameters_in_a_jpegs_user_comment_are_found(order: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + PARAMETERS.encode(order)
    (said,) = provenance.read(encoded(picture(), "JPEG", exif=exif), "image/jpeg")["texts"]
    assert said == {"key": "UserComment", "text": PARAMETERS, "program": A1111}


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "HEIF", "PNG"])
def test_xmp_says_the_digital_source_type_and_fetches_nothing(kind: str) -> None:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP)
    options = {"pnginfo": info} if kind == "PNG" else {"xmp": XMP.encode()}
    said = provenance.read(encoded(picture(), kind, **options), f"image/{kind.lower()}")
    assert said == {
        "xmp": {
            "source_types": ["trainedAlgorithmicMedia"],
            "tool": "Adobe Firefly",
            "credit": "Made with AI",
            "remote_manifest": "https://cai.example/manifests/1",
        }
    }


def test_source_types_written_as_elements_are_found_too() -> None:
    packet = f"<Iptc4xmpExt:DigitalSourceType>{TRAINED}</Iptc4xmpExt:DigitalSourceType>"
    said = provenance.read(encoded(picture(), "JPEG", xmp=packet.encode()), "image/jpeg")
    assert said["xmp"] == {"source_types": ["trainedAlgorithmicMedia"]}


# --- C2PA, signed here by a certificate of our own, which no list trusts ---


def subject(common_name: str) -> x509.Name:
    parts = {NameOID.COUNTRY_NAME: "DE", NameOID.ORGANIZATION_NAME: "Example", NameOID.COMMON_NAME: common_name}
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts.items()])


def certificate(
    name: str, key: ec.EllipticCurvePrivateKey, signed_by: ec.EllipticCurvePrivateKey, *, authority: bool
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    usage = {**dict.fromkeys((*others, "decipher_only"), False), "digital_signature": not authority}
    made = (
        x509.CertificateBuilder()
        .subject_name(subject(name))
        .issuer_name(subject("Example Root"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=authority, crl_sign=authority, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by.public_key()), critical=False)
    )
    if not authority:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return made.sign(signed_by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def signed(data: bytes, media_type: str) -> bytes:
    """The file with a manifest that says it was made by a trained model."""
    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    leaf = certificate("Camera 1", key, root, authority=False)
    chain = leaf + certificate("Example Root", root, root, authority=True)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    manifest = {
        "claim_generator_info": [{"name": "Example Paint", "version": "1.0"}],
        "title": "a cat\x00 on a mat",
        "assertions": [
            {
                "label": "c2pa.actions",
                "data": {
                    "actions": [
                        {"action": "c2pa.created", "digitalSourceType": TRAINED, "softwareAgent": "Paint Model 3"},
                        {"action": "c2pa.cropped"},
                    ]
                },
            }
        ],
    }
    info = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=chain, private_key=private, ta_url=None)
    made = BytesIO()
    c2pa.Builder(json.dumps(manifest)).sign(c2pa.Signer.from_info(info), media_type, BytesIO(data), made)
    return made.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_c2pa_manifest_is_read_with_its_signer_and_actions(kind: str) -> None:
    media_type = f"image/{kind.lower()}"
    said = provenance.read(signed(encoded(picture(size=(200, 150)), kind), media_type), media_type)["c2pa"]
    assert (said["state"], said["problems"]) == ("Valid", ["signingCredential.untrusted"])
    assert (said["signer"], said["issuer"], said["generator"]) == ("Camera 1", "Example", "Example Paint 1.0")
    assert said["title"] == "a cat on a mat"
    assert said["actions"][0] == {
        "action": "c2pa.created",
        "source_type": "trainedAlgorithmicMedia",
        "agent": "Paint Model 3",
    }
    assert said["actions"][1]["action"] == "c2pa.cropped"


def test_a_file_that_was_changed_after_signing_is_invalid() -> None:
    changed = bytearray(signed(encoded(picture(size=(200, 150)), "JPEG"), "image/jpeg"))
    changed[-100] ^= 1
    said = provenance.read(bytes(changed), "image/jpeg")["c2pa"]
    assert said["state"] == "Invalid" and "assertion.dataHash.mismatch" in said["problems"]


def test_a_manifest_cut_short_is_said_to_be_unreadable_and_takes_nothing_else_along() -> None:
    whole = signed(encoded(picture(size=(200, 150)), "JPEG", exif=camera_exif()), "image/jpeg")
    at = whole.index(b"jumb")
    broken = whole[: at + 40] + bytes(200) + whole[at + 240 :]
    said = provenance.read(broken, "image/jpeg")
    assert said["unreadable"] == ["c2pa"] and said["exif"]["camera"] == "Canon EOS 5D"


# --- Nothing to say, and hostile files ---


def test_files_that_say_nothing_say_nothing() -> None:
    assert provenance.read(encoded(picture(), "PNG"), "image/png") == {}
    for sample in samples():
        assert "unreadable" not in provenance.read(sample.path.read_bytes(), "image/jpeg")


def test_texts_are_bounded_and_can_be_stored() -> None:
    said = provenance.read(png(Comment="x" * 100_000, Description="a\x01b", Title="\x02"), "image/png")["texts"]
    assert len(said[0]["text"]) == provenance.MAX_TEXT + 2 and said[0]["text"].endswith(" …")
    json.dumps(said).encode()
    assert "\\u0000" not in json.dumps(said) and "\x01" not in said[1]["text"]
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = "a\0b\x1b[31m"
    assert provenance.read(encoded(picture(), "JPEG", exif=exif), "image/jpeg")["exif"]["software"] == "ab[31m"


@pytest.mark.parametrize(
    "data",
    [b"", b"c2pa", b"\xff\xd8\xffc2pa", truncated_jpeg(), b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"BM" + b"c2pa" * 20],
)
def test_what_is_no_picture_is_unreadable_and_raises_nothing(data: bytes) -> None:
    said = provenance.read(data, "image/jpeg")
    assert set(said) <= {"unreadable", "exif", "texts", "xmp"}


def test_broken_exif_is_unreadable_or_empty() -> None:
    whole = bytearray(encoded(picture(), "JPEG", exif=camera_exif()))
    at = whole.index(b"Exif\0\0") + 6
    for offset in range(0, 60, 3):
        broken = bytes(whole[: at + offset] + bytes([255] * 12) + whole[at + offset + 12 :])
        assert set(provenance.read(broken, "image/jpeg")) <= {"exif", "unreadable"}, offset


def test_it_runs_in_a_sandbox_of_the_size_that_screening_has() -> None:
    sandbox = Sandbox(1, 256 * 1024 * 1024, 60)
    try:
        said = sandbox.call(provenance.read, signed(encoded(picture(), "JPEG"), "image/jpeg"), "image/jpeg")
    finally:
        sandbox.close()
    assert said["c2pa"]["signer"] == "Camera 1"
