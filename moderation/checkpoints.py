"""Adapter folders in the object store, by their digest, and fetched from there to a folder of this machine.

A stored adapter is its files and, written last, an inventory of them: names, sizes and sha256. The digest is the
inventory's own sha256, so that whoever has it can prove every byte, and an adapter that is only half written is not
there. It knows nothing of what is in the files, nor of versions.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from moderation.errors import ConfigurationError, DamagedCheckpoint, ImageTooLarge, InvalidRequest, NotFound
from moderation.storage import Storage, adapter_key

log = logging.getLogger(__name__)

PLACE = "stored:"
INVENTORY = "inventory.json"
DIGEST = re.compile(r"[0-9a-f]{64}")
# What one adapter may weigh. FakeVLM's, of rank 16 on every linear layer, in float32, has about 160 MB.
MOST_BYTES = 4 * 1024**3
MOST_FILES = 200
MOST_INVENTORY_BYTES = 64 * 1024
# A folder may hold a training run's work beside the adapter.
LEFT_OUT = frozenset({"work", "logs", "runs", "__pycache__"})
# Fetched adapters that stay on this machine: enough for a rollback without a download.
KEPT = 4
UNFINISHED = ".fetching-"
UNFINISHED_FOR_S = 3600


@dataclass(frozen=True)
class _File:
    path: str
    size: int
    sha256: str


def digest_of(place: str) -> str | None:
    """The digest in a version's `checkpoint`, where it says that the adapter is stored; else None."""
    digest = place.removeprefix(PLACE)
    return digest if place.startswith(PLACE) and DIGEST.fullmatch(digest) else None


def place_of(folder: Path) -> str:
    """What `store` would return, without storing. Raises InvalidRequest."""
    return PLACE + hashlib.sha256(_written(_inventory(folder))).hexdigest()


def store(storage: Storage, folder: Path) -> str:
    """Put a folder into the store, unless it is there; what a version's `checkpoint` is to say.

    Raises InvalidRequest for a folder too large or with links in it, StorageUnavailable.
    """
    files = _inventory(folder)
    inventory = _written(files)
    digest = hashlib.sha256(inventory).hexdigest()
    for file in files:
        storage.put_file(adapter_key(digest, file.path), folder / file.path)
    storage.put(adapter_key(digest, INVENTORY), inventory, "application/json")
    return PLACE + digest


def fetch(storage: Storage, digest: str, cache: Path | None = None) -> Path:
    """The folder of this machine that holds the stored adapter, every byte proven now.

    Raises DamagedCheckpoint where what is stored is not what the digest says, StorageUnavailable.
    """
    cache = cache or default_cache()
    folder = cache / digest
    with _alone_in(cache):
        if not _is_whole(folder, digest):
            shutil.rmtree(folder, ignore_errors=True)
            _download(storage, digest, folder)
        os.utime(folder)
        _forget_oldest(cache)
    return folder


@contextmanager
def _alone_in(cache: Path) -> Iterator[None]:
    """One of the machine's processes fetches at a time, so that none removes what another has just put there.

    Whoever waited finds the adapter there. The lock is on the folder itself, and ends with the process.
    """
    handle = os.open(cache, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def lacking(storage: Storage, digest: str) -> list[str]:
    """Which files of a stored adapter are not in the store, or not as long as they were; their bytes are not read.

    Raises DamagedCheckpoint where even its inventory is missing, StorageUnavailable.
    """
    return [file.path for file in _stored(storage, digest) if not _is_stored(storage, digest, file)]


def _is_stored(storage: Storage, digest: str, file: _File) -> bool:
    try:
        return storage.head(adapter_key(digest, file.path)).size == file.size
    except NotFound:
        return False


def remove(storage: Storage, digest: str) -> None:
    """Take an adapter out of the store; the inventory goes first, so that none is ever half there."""
    try:
        inventory = storage.get(adapter_key(digest, INVENTORY), max_bytes=MOST_INVENTORY_BYTES)
    except NotFound:
        return
    storage.delete(adapter_key(digest, INVENTORY))
    for file in _read(inventory):
        storage.delete(adapter_key(digest, file.path))


def default_cache() -> Path:
    """Where fetched adapters are kept: below the system's folder for temporary files (TMPDIR), for this user alone."""
    folder = Path(tempfile.gettempdir()) / f"telltale-adapters-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ConfigurationError(f"{folder} is somebody else's: remove it, or set TMPDIR to a folder of your own.")
    return folder


def _download(storage: Storage, digest: str, folder: Path) -> None:
    """All of it beside its place, and then there at once: whoever is stopped in the middle leaves no half of one."""
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder.parent))
    try:
        for file in _stored(storage, digest):
            _download_file(storage, digest, file, unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _download_file(storage: Storage, digest: str, file: _File, folder: Path) -> None:
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        storage.get_file(adapter_key(digest, file.path), path, max_bytes=file.size)
    except (NotFound, ImageTooLarge) as error:
        raise _damaged(digest, f"{file.path} is missing or longer than it was") from error
    if path.stat().st_size != file.size or _sha256(path) != file.sha256:
        raise _damaged(digest, f"{file.path} is not what was stored")


def _stored(storage: Storage, digest: str) -> list[_File]:
    try:
        inventory = storage.get(adapter_key(digest, INVENTORY), max_bytes=MOST_INVENTORY_BYTES)
    except (NotFound, ImageTooLarge) as error:
        raise _damaged(digest, "its inventory is missing or too long") from error
    if hashlib.sha256(inventory).hexdigest() != digest:
        raise _damaged(digest, "its inventory is not what was stored")
    return _read(inventory)


def _damaged(digest: str, what: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"The adapter {digest[:12]} in the object store is damaged: {what}. Store it again with `telltale models "
        "register FOLDER`, or promote another version."
    )


def _is_whole(folder: Path, digest: str) -> bool:
    """Whether a fetched folder has what its digest says, byte for byte."""
    try:
        files = _inventory(folder)
    except (InvalidRequest, OSError):
        return False
    return hashlib.sha256(_written(files)).hexdigest() == digest


def _inventory(folder: Path) -> list[_File]:
    """The files of a folder, by name. Raises InvalidRequest."""
    paths = sorted(path for path in folder.rglob("*") if not _is_left_out(path.relative_to(folder)))
    if link := next((path for path in paths if path.is_symlink()), None):
        raise InvalidRequest(f"{link} is a link: an adapter's folder must hold its files themselves.")
    found = [path for path in paths if path.is_file()]
    size = sum(path.stat().st_size for path in found)
    if not found or len(found) > MOST_FILES or size > MOST_BYTES:
        raise InvalidRequest(
            f"{folder} holds {len(found)} files of {size} bytes; an adapter has 1 to {MOST_FILES} of up to "
            f"{MOST_BYTES} bytes in all."
        )
    return [_File(path.relative_to(folder).as_posix(), path.stat().st_size, _sha256(path)) for path in found]


def _is_left_out(path: Path) -> bool:
    return path.parts[0] in LEFT_OUT or any(part.startswith(".") for part in path.parts)


def _written(files: list[_File]) -> bytes:
    listed = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in files]
    return json.dumps({"format": 1, "files": listed}, sort_keys=True).encode()


def _read(inventory: bytes) -> list[_File]:
    """The files an inventory lists. It has been proven, yet no name may lead out of the folder it is written to."""
    files = [_File(**listed) for listed in json.loads(inventory)["files"]]
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts:
            raise InvalidRequest(f"{file.path} leads out of an adapter's folder.")
    return files


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _forget_oldest(cache: Path) -> None:
    """Keep the adapters used last, and no downloads whose process died."""
    folders = sorted((path for path in cache.iterdir() if DIGEST.fullmatch(path.name)), key=_used_at)
    dead = [path for path in cache.glob(f"{UNFINISHED}*") if time.time() - _used_at(path) > UNFINISHED_FOR_S]
    for folder in [*folders[:-KEPT], *dead]:
        shutil.rmtree(folder, ignore_errors=True)


def _used_at(path: Path) -> float:
    """When it was used last; never, of one that is gone by now."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
