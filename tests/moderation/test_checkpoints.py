"""Adapters in the object store: all of one is there or nothing, and no byte is believed without its digest."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moderation import checkpoints
from moderation.errors import ConfigurationError, DamagedCheckpoint, InvalidRequest, NotFound, StorageUnavailable
from moderation.settings import settings
from moderation.storage import Storage, adapter_key


@pytest.fixture
def storage(bucket: str) -> Storage:
    return Storage(settings())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter's folder, with bytes of its own."""
    made = tmp_path / "adapter"
    (made / "golden").mkdir(parents=True)
    (made / "telltale.json").write_text(f'{{"name": "{tmp_path}"}}')
    (made / "adapter_model.safetensors").write_bytes(os.urandom(3_000_000))
    (made / "golden" / "one.png").write_bytes(b"picture")
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    made = tmp_path / "cache"
    made.mkdir()
    return made


def stored(storage: Storage, folder: Path) -> str:
    digest = checkpoints.digest_of(checkpoints.store(storage, folder))
    assert digest is not None
    return digest


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_stored_is_fetched(storage: Storage, folder: Path, cache: Path) -> None:
    place = checkpoints.store(storage, folder)
    assert place == checkpoints.place_of(folder)
    digest = checkpoints.digest_of(place)
    assert digest is not None
    fetched = checkpoints.fetch(storage, digest, cache)
    assert fetched == cache / digest
    assert content(fetched) == content(folder)


def test_a_training_runs_work_is_not_stored(storage: Storage, folder: Path, cache: Path) -> None:
    before = checkpoints.place_of(folder)
    for beside in ("work/state", "logs/events", ".cache/x"):
        (folder / beside).parent.mkdir()
        (folder / beside).write_text("large")
    assert checkpoints.place_of(folder) == before


def test_other_places_are_no_digests() -> None:
    for place in ("demo", "/models/mine", "owner/name", "stored:", "stored:../../etc"):
        assert checkpoints.digest_of(place) is None


def test_fetching_again_asks_the_store_nothing(
    storage: Storage, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = stored(storage, folder)
    checkpoints.fetch(storage, digest, cache)

    def away(*_: object, **__: object) -> bytes:
        raise StorageUnavailable("away")

    monkeypatch.setattr(storage, "get", away)
    assert content(checkpoints.fetch(storage, digest, cache)) == content(folder)


def test_a_cached_folder_that_was_changed_is_fetched_again(storage: Storage, folder: Path, cache: Path) -> None:
    digest = stored(storage, folder)
    fetched = checkpoints.fetch(storage, digest, cache)
    (fetched / "adapter_model.safetensors").write_bytes(b"something else")
    assert content(checkpoints.fetch(storage, digest, cache)) == content(folder)


@pytest.mark.parametrize("damage", ["another byte", "longer", "gone", "inventory", "no inventory"])
def test_damage_in_the_store_is_refused_and_leaves_nothing(
    storage: Storage, folder: Path, cache: Path, damage: str
) -> None:
    digest = stored(storage, folder)
    weights = adapter_key(digest, "adapter_model.safetensors")
    data = storage.get(weights, max_bytes=10_000_000)
    if damage == "another byte":
        storage.put(weights, bytes([data[0] ^ 1]) + data[1:], "application/octet-stream")
    elif damage == "longer":
        storage.put(weights, data + b"x", "application/octet-stream")
    elif damage == "gone":
        storage.delete(weights)
    elif damage == "inventory":
        storage.put(adapter_key(digest, checkpoints.INVENTORY), b'{"files": []}', "application/json")
    else:
        storage.delete(adapter_key(digest, checkpoints.INVENTORY))
    with pytest.raises(DamagedCheckpoint, match="is damaged"):
        checkpoints.fetch(storage, digest, cache)
    assert list(cache.iterdir()) == []
    assert checkpoints.store(storage, folder) == f"stored:{digest}", "storing it again mends it"
    assert content(checkpoints.fetch(storage, digest, cache)) == content(folder)


def test_a_store_that_is_away_says_so(folder: Path, cache: Path) -> None:
    nowhere = Storage(settings().model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"}))
    with pytest.raises(StorageUnavailable):
        checkpoints.fetch(nowhere, "0" * 64, cache)
    with pytest.raises(StorageUnavailable):
        checkpoints.store(nowhere, folder)
    assert list(cache.iterdir()) == []


def test_several_workers_of_a_machine_fetch_at_once(storage: Storage, folder: Path, cache: Path) -> None:
    digest, barrier = stored(storage, folder), threading.Barrier(6)

    def fetch(_: int) -> dict[str, bytes]:
        barrier.wait()
        return content(checkpoints.fetch(storage, digest, cache))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(fetch, range(6))) == [content(folder)] * 6
    assert [path.name for path in cache.iterdir()] == [digest]


def test_only_the_ones_used_last_stay_on_the_machine(storage: Storage, folder: Path, cache: Path) -> None:
    digests = []
    for number in range(checkpoints.KEPT + 2):
        (folder / "telltale.json").write_text(f"{number} {folder}")
        digests.append(stored(storage, folder))
        checkpoints.fetch(storage, digests[-1], cache)
        time.sleep(0.02)
    dead, fresh = cache / f"{checkpoints.UNFINISHED}dead", cache / f"{checkpoints.UNFINISHED}fresh"
    dead.mkdir()
    fresh.mkdir()
    os.utime(dead, (0, 0))
    checkpoints.fetch(storage, digests[-1], cache)
    assert {path.name for path in cache.iterdir()} == {*digests[-checkpoints.KEPT :], fresh.name}


def test_what_is_removed_is_gone(storage: Storage, folder: Path, cache: Path) -> None:
    digest = stored(storage, folder)
    checkpoints.remove(storage, digest)
    checkpoints.remove(storage, digest)
    with pytest.raises(DamagedCheckpoint):
        checkpoints.fetch(storage, digest, cache)
    with pytest.raises(NotFound):
        storage.head(adapter_key(digest, "golden/one.png"))


def test_folders_that_are_none_of_an_adapter_are_refused(storage: Storage, folder: Path, tmp_path: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidRequest, match="is a link"):
        checkpoints.store(storage, folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InvalidRequest, match="holds 0 files"):
        checkpoints.store(storage, empty)


def test_an_inventory_cannot_lead_out_of_its_folder(storage: Storage, cache: Path) -> None:
    inventory = b'{"files": [{"path": "../escaped", "sha256": "00", "size": 1}], "format": 1}'
    digest = hashlib.sha256(inventory).hexdigest()
    storage.put(adapter_key(digest, checkpoints.INVENTORY), inventory, "application/json")
    with pytest.raises(InvalidRequest, match="leads out"):
        checkpoints.fetch(storage, digest, cache)


def test_the_cache_is_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints.tempfile, "gettempdir", lambda: str(tmp_path))
    assert checkpoints.default_cache().stat().st_mode & 0o077 == 0
    checkpoints.default_cache().rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / f"telltale-adapters-{os.getuid()}").symlink_to(elsewhere)
    with pytest.raises(ConfigurationError, match="somebody else's"):
        checkpoints.default_cache()
