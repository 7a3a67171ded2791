"""The object store (S3 and what speaks like it): image bytes by key, and links that let others at one of them.

Keys are named here and nowhere else. It does not know what the bytes are, nor which row speaks of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import UUID

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ReadTimeoutError
from botocore.exceptions import ConnectionError as NotConnected
from botocore.response import StreamingBody

from moderation import outbound
from moderation.errors import ConfigurationError, ImageTooLarge, NotFound, StorageFull, StorageUnavailable
from moderation.settings import Settings
from moderation.vocabulary import View

if TYPE_CHECKING:
    from botocore.awsrequest import AWSResponse
    from botocore.httpsession import URLLib3Session
    from types_boto3_s3.client import S3Client

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 15  # between two pieces of an answer
ATTEMPTS = 3
CONNECTIONS = 64  # at once; as many as a process's threads, or they wait for one another
FOREIGN_LINK_S = 300
PIECE_BYTES = 1024 * 1024
DELETED_AT_ONCE = 1000  # as many as S3 takes

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_making = Lock()
# What stores answer that are full, or whose bucket is; AWS has neither. Others refuse as if they were broken.
_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"})
_HAVE_IT = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})


@dataclass(frozen=True)
class StoredObject:
    """What the store knows of an object without its bytes; `size` in bytes. `kept`: also once it is deleted."""

    size: int
    media_type: str
    kept: bool = False


@dataclass(frozen=True)
class ListedObject:
    """A key of the bucket, and when its object was written."""

    key: str
    modified: datetime


def original_key(tenant_id: UUID, image_id: UUID) -> str:
    """Where an image's bytes are, as they were sent; written once."""
    return f"originals/{tenant_id}/{image_id}"


def rendition_key(tenant_id: UUID, image_id: UUID) -> str:
    """Where the copy of an image that browsers are shown is; making it again gives the same."""
    return f"renditions/{tenant_id}/{image_id}"


def view_key(tenant_id: UUID, image_id: UUID, view: View) -> str:
    """Where one of the views of an image is, once it has been made; making it again gives the same."""
    return f"views/{tenant_id}/{image_id}/{view}"


def upload_key(tenant_id: UUID, upload_id: UUID) -> str:
    """Where a platform puts a large file before submitting it; whoever has the link may write it again."""
    return f"uploads/{tenant_id}/{upload_id}"


def adapter_key(digest: str, path: str = "") -> str:
    """Where a file of a stored adapter is; without `path`, what all of them begin with. Written once."""
    return f"adapters/{digest}/{path}"


def snapshot_key(digest: str) -> str:
    """Where a training run's snapshot is, by the digest of what it says; only tombstones are ever put into it."""
    return f"snapshots/{digest}.json"


def report_key(run_id: UUID) -> str:
    """Where a training run's report is, a page that stands alone; making it again replaces it."""
    return f"reports/{run_id}.html"


def probe_key(id_: UUID) -> str:
    """Where something is put only to see whether it can be."""
    return f"probes/{id_}"


class Storage:
    """One deployment's bucket. Safe to use from many threads; a process needs one.

    Everything raises StorageUnavailable when the store does not answer, after a few attempts, or refuses.
    """

    def __init__(self, settings: Settings) -> None:
        self._bucket = settings.s3_bucket
        self._region = settings.s3_region
        self._endpoint = settings.s3_endpoint_url
        access = (settings.s3_region, settings.s3_access_key, settings.s3_secret_key)
        self._client = _client(settings.s3_endpoint_url, *access)
        address = _address(self._client, self._bucket, settings.s3_endpoint_url)
        self._at_once = _AtOnce(self._client, address, *access)
        # A presigned link is bound to the host it was signed for, so those are signed for the public one.
        self._public_client = _client(settings.s3_public_url or settings.s3_endpoint_url, *access)

    def put(self, key: str, data: bytes, media_type: str) -> None:
        """Store an object; one of this key is replaced."""
        with _translated(key):
            if not self._at_once.put(key, data, media_type):
                self._client.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=media_type)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        """An object's bytes. Raises NotFound, and ImageTooLarge above `max_bytes` without reading them."""
        with _translated(key):
            data = self._at_once.get(key, max_bytes)
            if data is not None:
                return data
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            with answer["Body"] as body:
                _refuse_larger(answer["ContentLength"], max_bytes)
                return body.read()

    def head(self, key: str) -> StoredObject:
        """An object's size and type, and whether the bucket keeps versions. Raises NotFound."""
        with _translated(key):
            answer = self._client.head_object(Bucket=self._bucket, Key=key)
            # `null` is the one version there is where versioning was switched off again.
            kept = answer.get("VersionId", "null") != "null"
            return StoredObject(answer["ContentLength"], answer["ContentType"], kept)

    def put_file(self, key: str, path: Path, media_type: str = "application/octet-stream") -> None:
        """Store a file of any size, a large one in parts; an object of this key is replaced."""
        with _translated(key), path.open("rb") as file:
            self._client.upload_fileobj(file, self._bucket, key, ExtraArgs={"ContentType": media_type})

    def get_file(self, key: str, path: Path, *, max_bytes: int) -> None:
        """Write an object to a file. Raises NotFound, and ImageTooLarge above `max_bytes` without reading it."""
        with _translated(key):
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            with closing(answer["Body"]) as body, path.open("wb") as file:
                _refuse_larger(answer["ContentLength"], max_bytes)
                for piece in body.iter_chunks(PIECE_BYTES):
                    file.write(piece)

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        try:
            self.head(key)
        except NotFound:
            return False
        return True

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the store; its bytes do not travel. Raises NotFound."""
        with _translated(source):
            origin = {"Bucket": self._bucket, "Key": source}
            self._client.copy_object(Bucket=self._bucket, Key=target, CopySource=origin)  # type: ignore[arg-type]

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with _translated(key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove objects, up to a thousand in one call; those that are not there are no error."""
        for start in range(0, len(keys), DELETED_AT_ONCE):
            some = [{"Key": key} for key in keys[start : start + DELETED_AT_ONCE]]
            with _translated(some[0]["Key"]):
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": some, "Quiet": True})  # type: ignore[typeddict-item]
            failed = answer.get("Errors", [])
            if failed:
                raise StorageUnavailable(f"The object store did not delete {len(failed)} objects: {failed[0]}")

    def presigned_get(self, key: str, *, seconds: int) -> str:
        """A link by which anybody can read the object for so long, at the store's public address: a file, no page."""
        with _translated(key):
            parameters = {"Bucket": self._bucket, "Key": key, "ResponseContentDisposition": "attachment"}
            return self._public_client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=seconds)

    def listed(self, prefix: str, *, after: str, limit: int) -> list[ListedObject]:
        """The next objects whose key begins with `prefix`, in the order of keys, from just after a key on."""
        with _translated(prefix):
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, StartAfter=after, MaxKeys=limit)
        return [ListedObject(one["Key"], one["LastModified"]) for one in answer.get("Contents", [])]

    def presigned_post(self, key: str, *, max_bytes: int, seconds: int, min_bytes: int = 1) -> dict[str, Any]:
        """`{url, fields}` of a form by which anybody can write this key; the store itself refuses other sizes."""
        with _translated(key):
            return self._public_client.generate_presigned_post(
                self._bucket, key, Conditions=[["content-length-range", min_bytes, max_bytes]], ExpiresIn=seconds
            )

    def ensure_bucket(self) -> None:
        """Make the bucket unless it is there."""
        with _translated(self._bucket):
            try:
                # Outside of us-east-1 AWS wants to be told the region; other stores may not know the word.
                if self._endpoint is None and self._region != "us-east-1":
                    where: Any = {"LocationConstraint": self._region}
                    self._client.create_bucket(Bucket=self._bucket, CreateBucketConfiguration=where)
                else:
                    self._client.create_bucket(Bucket=self._bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] not in _HAVE_IT:
                    raise
        self.ping()  # a bucket of this name may be somebody else's

    def clock(self) -> datetime:
        """What time it is by the store's clock, to the second. Raises StorageUnavailable."""
        with _translated(self._bucket):
            answer = self._client.head_bucket(Bucket=self._bucket)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def ping(self) -> None:
        """Return when the store answers and the bucket is ours to use."""
        try:
            with _translated(self._bucket):
                self._client.head_bucket(Bucket=self._bucket)
        except NotFound as error:
            raise StorageUnavailable(f"The object store has no bucket '{self._bucket}': create it.") from error


class _AtOnce:
    """PutObject and GetObject by botocore's signer and connections alone: what every case waits for, at half the CPU.

    Each is tried once. Whatever is not a plain success is left to boto3, which knows what to make of it and when to
    try again. Raises ReadTimeoutError: who has waited that long is not to wait again.
    """

    def __init__(
        self, client: S3Client, address: str, region: str, access_key: str | None, secret_key: str | None
    ) -> None:
        self._address = address
        self._region = region
        given = Credentials(access_key, secret_key) if access_key and secret_key else None
        self._credentials = given or boto3.session.Session().get_credentials()
        # The client's own connections: whatever authorities, proxies and time-outs it was made with hold here too.
        self._connections: URLLib3Session = client._endpoint.http_session  # type: ignore[attr-defined]

    def put(self, key: str, data: bytes, media_type: str) -> bool:
        """Whether the object is stored."""
        answer = self._sent("PUT", key, {"Content-Type": media_type}, data)
        return answer is not None and answer.status_code == HTTPStatus.OK

    def get(self, key: str, max_bytes: int) -> bytes | None:
        """The object's bytes, or None where boto3 is to be asked. Raises ImageTooLarge, with nothing read."""
        answer = self._sent("GET", key, {}, None)
        if answer is None:
            return None
        size = int(answer.headers.get("content-length", -1))
        with closing(StreamingBody(answer.raw, size)) as body:
            if answer.status_code != HTTPStatus.OK or size < 0:
                return None
            _refuse_larger(size, max_bytes)
            return body.read()

    def _sent(self, method: str, key: str, headers: dict[str, str], data: bytes | None) -> AWSResponse | None:
        """What the store answers; of GET the body has not been read."""
        if self._credentials is None:
            return None
        address = f"{self._address}/{quote(key)}"
        request = AWSRequest(method, address, headers, data, stream_output=method == "GET")
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        try:
            return self._connections.send(request.prepare())
        except ReadTimeoutError:
            raise
        except (HTTPClientError, NotConnected):
            return None


def _refuse_larger(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ImageTooLarge(f"The file has {size} bytes; at most {max_bytes} are read.")


def foreign_object(
    settings: Settings,
    *,
    endpoint_url: str | None,
    region: str | None,
    access_key: str | None,
    secret_key: str | None,
    bucket: str,
    key: str,
    resolve: outbound.Resolver | None = None,
) -> bytes:
    """An object of somebody else's store, read with credentials they gave; `endpoint_url` None is AWS's own.

    The address is theirs to say, so it is a link like any other: we only sign it, and moderation/outbound.py calls it,
    with its limits on address, size and time, and its errors.
    """
    if not access_key or not secret_key:
        raise ConfigurationError(
            "The source has no credentials for its store: set its s3_access_key and s3_secret_key."
        )
    try:
        client = _client(endpoint_url, region or "us-east-1", access_key, secret_key)
        link = client.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=FOREIGN_LINK_S
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(f"The source's store cannot be addressed: {error}") from error
    return outbound.fetch_image(link, settings, resolve=resolve).data


def _client(endpoint_url: str | None, region: str, access_key: str | None, secret_key: str | None) -> S3Client:
    # A session is not safe to make clients from in several threads.
    with _making:
        client: S3Client = _session().client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=_config(endpoint_url),
        )
    return client


@cache
def _session() -> boto3.session.Session:
    """The process's one: what boto3 knows of S3 takes longer to read than all the rest of making a client."""
    return boto3.session.Session()


def _address(client: S3Client, bucket: str, endpoint_url: str | None) -> str:
    """Where the bucket's objects are, as `_config` has them addressed."""
    scheme, _, host = client.meta.endpoint_url.rstrip("/").partition("://")
    return f"{scheme}://{host}/{bucket}" if endpoint_url else f"{scheme}://{bucket}.{host}"


def _config(endpoint_url: str | None) -> Config:
    return Config(
        signature_version="s3v4",
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=CONNECTIONS,
        # A bucket as a part of the host name needs DNS that other stores seldom have.
        # With AWS it is "virtual" and not "auto", which would presign for the global host, and that one redirects.
        s3={"addressing_style": "path" if endpoint_url else "virtual"},
        # Newer checksums that other stores do not know are left to where S3 itself demands them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """botocore's errors as ours."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in _MISSING:
            raise NotFound(f"The store holds nothing under '{name}'.") from error
        if code in _FULL or error.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.INSUFFICIENT_STORAGE:
            raise StorageFull("The object store has no space left: give it more, or a larger quota.") from error
        raise StorageUnavailable(f"The object store refused: {code}. Check its bucket and credentials.") from error
    except BotoCoreError as error:
        raise StorageUnavailable("The object store does not answer: check its address and that it is up.") from error
