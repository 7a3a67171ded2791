"""Where backups are kept: a folder, or a prefix of a bucket; the same files by the same names in both.

A file is there as a whole or not at all, under its name. It does not know what is in them.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

from moderation.errors import ConfigurationError, NotFound
from moderation.settings import Settings
from moderation.storage import Storage

MEDIA_TYPE = "application/octet-stream"
LISTED_AT_ONCE = 1000
# What is read as a whole: manifests and lists of withdrawals, never objects or dumps.
MOST_BYTES = 256 * 1024 * 1024
S3 = "s3://"
PARTIAL = ".partial"


class Place(Protocol):
    """Files by name. Raises NotFound for one that is not there, StorageUnavailable or OSError where it cannot work."""

    def put(self, name: str, data: bytes) -> None:
        """Write a small file; one of this name is replaced."""

    def put_file(self, name: str, path: Path) -> None:
        """Write a file of any size; one of this name is replaced."""

    def get(self, name: str) -> bytes:
        """A small file's bytes."""

    def get_file(self, name: str, path: Path) -> None:
        """Copy a file of any size to `path`."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def names(self, prefix: str) -> Iterator[str]:
        """The files whose name begins with `prefix`, which ends in a slash; in their order in each folder.

        Half a file, of a write that was killed, is among them by another name, so that it can be removed.
        """

    def delete(self, names: Sequence[str]) -> None:
        """Remove files; those that are not there are no error."""


class Folder:
    """A folder of this machine, or one that is mounted; nobody but its owner can read what is made here."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, name: str, data: bytes) -> None:
        with self._own(name) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._finish(name)

    def put_file(self, name: str, path: Path) -> None:
        with path.open("rb") as source, self._own(name) as file:
            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())
        self._finish(name)

    def _own(self, name: str) -> BinaryIO:
        path = self._path / (name + PARTIAL)
        _make_own(path.parent)
        return open(path, "wb", opener=partial(os.open, mode=0o600))

    def _finish(self, name: str) -> None:
        (self._path / (name + PARTIAL)).replace(self._path / name)

    def get(self, name: str) -> bytes:
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            raise _missing(name) from None

    def get_file(self, name: str, path: Path) -> None:
        try:
            shutil.copyfile(self._path / name, path)
        except FileNotFoundError:
            raise _missing(name) from None

    def has(self, name: str) -> bool:
        return (self._path / name).is_file()

    def names(self, prefix: str) -> Iterator[str]:
        for folder, inner, files in os.walk(self._path / prefix):
            inner.sort()
            here = Path(folder).relative_to(self._path)
            yield from ((here / file).as_posix() for file in sorted(files))

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            (self._path / name).unlink(missing_ok=True)


def _make_own(folder: Path) -> None:
    """A folder, and those above it that are not there, for nobody but us; `parents` of mkdir would let others in."""
    if not folder.is_dir():
        _make_own(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _missing(name: str) -> NotFound:
    return NotFound(f"The destination has no {name}.")


class Bucket:
    """A prefix of a bucket."""

    def __init__(self, storage: Storage, prefix: str) -> None:
        self._storage = storage
        self._prefix = prefix

    def put(self, name: str, data: bytes) -> None:
        self._storage.put(self._prefix + name, data, MEDIA_TYPE)

    def put_file(self, name: str, path: Path) -> None:
        self._storage.put_file(self._prefix + name, path)

    def get(self, name: str) -> bytes:
        return self._storage.get(self._prefix + name, max_bytes=MOST_BYTES)

    def get_file(self, name: str, path: Path) -> None:
        self._storage.get_file(self._prefix + name, path, max_bytes=sys.maxsize)

    def has(self, name: str) -> bool:
        return self._storage.exists(self._prefix + name)

    def names(self, prefix: str) -> Iterator[str]:
        after = ""
        while page := self._storage.listed(self._prefix + prefix, after=after, limit=LISTED_AT_ONCE):
            yield from (found.key.removeprefix(self._prefix) for found in page)
            after = page[-1].key

    def delete(self, names: Sequence[str]) -> None:
        self._storage.delete_all([self._prefix + name for name in names])


def place_of(address: str, rules: Settings, *, endpoint_url: str | None, region: str | None) -> Place:
    """The place that `address` names: a folder, or s3://bucket/prefix.

    Without `endpoint_url` the bucket is one of the service's own store, with the service's own credentials; with it, of
    the store there, with those that boto3 finds by itself (AWS_ACCESS_KEY_ID, AWS_PROFILE, a role). Raises
    ConfigurationError.
    """
    if not address.startswith(S3):
        return Folder(Path(address))
    url = urlsplit(address)
    prefix = f"{url.path.strip('/')}/".lstrip("/")
    if not url.netloc:
        raise ConfigurationError(f"{address} names no bucket: s3://bucket/prefix does.")
    if not endpoint_url and url.netloc == rules.s3_bucket:
        raise ConfigurationError(f"{address} is the bucket that is to be backed up: name another one.")
    its: dict[str, object] = {"s3_bucket": url.netloc, "s3_region": region or rules.s3_region}
    if endpoint_url:
        its |= {"s3_endpoint_url": endpoint_url, "s3_access_key": None, "s3_secret_key": None, "s3_public_url": None}
    return Bucket(Storage(rules.model_copy(update=its)), prefix)
