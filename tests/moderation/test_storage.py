"""The object store, against a real one, and what happens when there is none."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit
from uuid import uuid4

import boto3
import pytest
import urllib3
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    SSLError,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from moderation import storage
from moderation.errors import (
    AddressRefused,
    BadStatus,
    ConfigurationError,
    ImageTooLarge,
    NotFound,
    ResponseTooLarge,
    StorageUnavailable,
    UnsupportedType,
)
from moderation.settings import Settings, settings
from moderation.storage import Storage, StoredObject
from tests.moderation.test_originals import unreachable

PIXELS = bytes(range(256)) * 4


@pytest.fixture
def store(bucket: str) -> Storage:
    return Storage(settings())


@pytest.fixture
def key() -> str:
    return storage.original_key(uuid4(), uuid4())


def changed(**changes: object) -> Settings:
    return settings().model_copy(update=changes)


def store_host() -> str:
    return urlsplit(str(settings().s3_endpoint_url)).netloc


def test_keys_tell_tenants_and_kinds_apart() -> None:
    tenant, other, thing = uuid4(), uuid4(), uuid4()
    keys = {
        storage.original_key(tenant, thing),
        storage.original_key(other, thing),
        storage.upload_key(tenant, thing),
        storage.upload_key(other, thing),
    }
    assert len(keys) == 4


def test_what_is_put_can_be_got(store: Storage, key: str) -> None:
    assert not store.exists(key)
    store.put(key, PIXELS, "image/jpeg")
    assert store.exists(key)
    assert store.get(key, max_bytes=len(PIXELS)) == PIXELS
    assert store.head(key) == StoredObject(len(PIXELS), "image/jpeg")


def test_nothing_larger_than_asked_for_is_read(store: Storage, key: str) -> None:
    store.put(key, PIXELS, "image/jpeg")
    with pytest.raises(ImageTooLarge, match="1024 bytes; at most 1023"):
        store.get(key, max_bytes=len(PIXELS) - 1)


def test_what_is_not_there_is_not_found(store: Storage, key: str) -> None:
    with pytest.raises(NotFound):
        store.get(key, max_bytes=10)
    with pytest.raises(NotFound):
        store.head(key)
    with pytest.raises(NotFound):
        store.copy(key, key + "-copy")


def test_deleting_twice_is_harmless(store: Storage, key: str) -> None:
    store.put(key, PIXELS, "image/jpeg")
    store.delete(key)
    store.delete(key)
    assert not store.exists(key)


def test_a_copy_outlives_its_source_and_keeps_its_type(store: Storage, key: str) -> None:
    upload = storage.upload_key(uuid4(), uuid4())
    store.put(upload, PIXELS, "image/webp")
    store.copy(upload, key)
    store.delete(upload)
    assert store.get(key, max_bytes=10**6) == PIXELS
    assert store.head(key).media_type == "image/webp"


def test_a_link_lets_anybody_read_one_object_for_a_while(store: Storage, key: str) -> None:
    store.put(key, PIXELS, "image/jpeg")
    link = store.presigned_get(key, seconds=60)
    answer = urllib3.request("GET", link)
    assert (answer.status, answer.data, answer.headers["content-type"]) == (200, PIXELS, "image/jpeg")
    assert urllib3.request("GET", link.replace(key, key + "x")).status == 403
    assert urllib3.request("GET", link.split("?")[0]).status == 403


def test_links_are_for_the_public_address(key: str) -> None:
    store = Storage(changed(s3_public_url="https://images.example:8443"))
    assert store.presigned_get(key, seconds=60).startswith("https://images.example:8443/")
    assert store.presigned_post(key, max_bytes=10, seconds=60)["url"].startswith("https://images.example:8443/")


@pytest.mark.parametrize(("size", "accepted"), [(0, False), (1, True), (1000, True), (1001, False)])
def test_a_form_accepts_its_sizes_only(store: Storage, size: int, accepted: bool) -> None:
    upload = storage.upload_key(uuid4(), uuid4())
    form = store.presigned_post(upload, max_bytes=1000, seconds=60)
    answer = urllib3.request("POST", form["url"], fields={**form["fields"], "file": ("x.jpg", b"x" * size)})
    assert (200 <= answer.status < 300) == accepted
    assert store.exists(upload) == accepted


def test_a_form_is_for_its_key_only(store: Storage, key: str) -> None:
    form = store.presigned_post(storage.upload_key(uuid4(), uuid4()), max_bytes=1000, seconds=60)
    fields = {**form["fields"], "key": key, "file": ("x.jpg", b"x")}
    assert urllib3.request("POST", form["url"], fields=fields).status >= 400
    assert not store.exists(key)


def test_the_bucket_is_made_once(bucket: str) -> None:
    name = f"made-{uuid4()}"
    store = Storage(changed(s3_bucket=name))
    with pytest.raises(StorageUnavailable, match=name):
        store.ping()
    store.ensure_bucket()
    store.ensure_bucket()
    store.ping()
    store.put("a", b"b", "image/png")
    assert store.get("a", max_bytes=1) == b"b"


def test_one_store_serves_many_threads(store: Storage) -> None:
    tenant = uuid4()

    def one(number: int) -> bool:
        key, data = storage.original_key(tenant, uuid4()), bytes([number]) * 5000
        store.put(key, data, "image/png")
        return store.get(key, max_bytes=5000) == data

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(one, range(64)))


def test_wrong_credentials_are_the_stores_refusal(bucket: str, key: str) -> None:
    store = Storage(changed(s3_secret_key="wrong"))
    with pytest.raises(StorageUnavailable, match="credentials"):
        store.put(key, PIXELS, "image/jpeg")


def test_a_store_that_is_away_is_unavailable(bucket: str, key: str) -> None:
    store = Storage(unreachable())
    for call in (store.ping, store.ensure_bucket, lambda: store.get(key, max_bytes=1), lambda: store.exists(key)):
        with pytest.raises(StorageUnavailable, match="does not answer"):
            call()


@contextmanager
def flaky_store(failures: int, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[str]]]:
    """A store that answers 503 so many times, and then 200; yields its address and the requests it saw."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # which answers `Expect: 100-continue`; boto3 waits a second for it

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            seen.append(self.path)
            self.send_response(503 if len(seen) <= failures else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        if tls:
            httpd.socket = tls.wrap_socket(httpd.socket, server_side=True)
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://localhost:{httpd.server_port}", seen
        finally:
            httpd.shutdown()
            thread.join()


def test_attempts_are_few(bucket: str) -> None:
    with flaky_store(failures=2) as (address, seen):
        Storage(changed(s3_endpoint_url=address)).put("key", b"x", "image/png")
        assert len(seen) == 3
    with flaky_store(failures=100) as (address, seen):
        with pytest.raises(StorageUnavailable):
            Storage(changed(s3_endpoint_url=address)).put("key", b"x", "image/png")
        assert len(seen) == 4  # one at once, and three of boto3's


@pytest.mark.parametrize(
    "error",
    [
        SSLError(endpoint_url="", error=ssl.SSLError()),
        ConnectTimeoutError(endpoint_url=""),
        ProxyConnectionError(proxy_url=""),
        EndpointConnectionError(endpoint_url=""),
        ConnectionClosedError(endpoint_url=""),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_goes_wrong_at_once_is_left_to_boto3(
    bucket: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(request: object) -> None:
        raise error

    with flaky_store(failures=0) as (address, seen):
        store = Storage(changed(s3_endpoint_url=address))
        monkeypatch.setattr(store._at_once, "_connections", SimpleNamespace(send=broken))
        store.put("key", b"x", "image/png")
        assert len(seen) == 1
        assert store._at_once.get("key", 10) is None


def test_a_store_of_an_authority_of_ones_own_is_put_to_at_once(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flaky_store(failures=0, tls=own_authority(tmp_path)) as (address, seen):
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        monkeypatch.setattr(storage, "_session", boto3.session.Session)  # the process's own has read it already
        assert Storage(changed(s3_endpoint_url=address))._at_once.put("key", b"x", "image/png")
        assert len(seen) == 1


def own_authority(folder: Path) -> ssl.SSLContext:
    """A server's, for localhost; who trusts `ca.pem` in the folder, trusts it."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now, day = datetime.now(UTC), timedelta(days=1)
    issued = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    named = issued.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
    whole = named.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    (folder / "ca.pem").write_bytes(whole.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


def test_a_store_behind_a_proxy_is_put_to_at_once(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with flaky_store(failures=0) as (proxy, seen):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.delenv("http_proxy", raising=False)
        assert Storage(changed(s3_endpoint_url="http://store.invalid"))._at_once.put("key", b"x", "image/png")
        assert seen == [f"http://store.invalid/{settings().s3_bucket}/key"]


# --- Somebody else's store ---


def read_foreign(allowed: tuple[str, ...], **changes: object) -> bytes:
    ours = settings()
    arguments: dict[str, object] = {
        "endpoint_url": ours.s3_endpoint_url,
        "region": None,
        "access_key": ours.s3_access_key,
        "secret_key": ours.s3_secret_key,
        "bucket": ours.s3_bucket,
    }
    limits = changed(allowed_hosts=allowed, max_image_bytes=2000)
    return storage.foreign_object(limits, **{**arguments, **changes})  # type: ignore[arg-type]


def test_a_foreign_object_is_read_with_its_own_credentials(store: Storage, key: str) -> None:
    odd = key + "/ä b+c&d.jpg"
    store.put(odd, PIXELS, "image/jpeg")
    assert read_foreign((store_host(),), key=odd) == PIXELS


def test_a_foreign_store_on_a_private_address_is_refused(store: Storage, key: str) -> None:
    store.put(key, PIXELS, "image/jpeg")
    for address in (settings().s3_endpoint_url, "http://169.254.169.254", "http://[::1]:8333", "http://localhost"):
        with pytest.raises(AddressRefused):
            read_foreign((), key=key, endpoint_url=address)


def test_a_foreign_object_has_the_same_limits_as_a_link(store: Storage, key: str) -> None:
    store.put(key, bytes(2001), "image/jpeg")
    with pytest.raises(ResponseTooLarge):
        read_foreign((store_host(),), key=key)
    store.put(key, b"<html>", "text/html")
    with pytest.raises(UnsupportedType):
        read_foreign((store_host(),), key=key)


def test_a_foreign_object_that_is_missing_or_forbidden(store: Storage, key: str) -> None:
    with pytest.raises(BadStatus) as missing:
        read_foreign((store_host(),), key=key)
    assert missing.value.status == 404
    with pytest.raises(BadStatus) as forbidden:
        read_foreign((store_host(),), key=key, secret_key="wrong")
    assert forbidden.value.status == 403


def test_a_foreign_store_without_a_custom_address_is_aws(bucket: str) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["10.0.0.1"]  # so that nothing is really called

    with pytest.raises(AddressRefused):
        storage.foreign_object(
            settings(),
            endpoint_url=None,
            region="eu-central-1",
            access_key="a",
            secret_key="b",
            bucket="their-images",
            key="x.jpg",
            resolve=resolve,
        )
    assert asked == ["their-images.s3.eu-central-1.amazonaws.com"]


@pytest.mark.parametrize(
    "changes",
    [
        {"access_key": None},
        {"secret_key": ""},
        {"endpoint_url": "not a url"},
        {"bucket": "a/../b c"},
        {"endpoint_url": None, "region": "evil.example/"},
    ],
)
def test_a_source_that_cannot_be_addressed_is_a_configuration_error(bucket: str, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        read_foreign((), key="x.jpg", **changes)
