import asyncio
import threading

import pytest

from routerretriever.errors import LockedError, StorageError
from routerretriever.storage import locks
from routerretriever.storage.locks import changing, changing_async, lock_open_file, locked_folder


def test_one_holder_at_a_time(tmp_path):
    """Threads add to a number that they read before; with the lock none of it is lost."""
    file = tmp_path / "number"
    file.write_text("0")

    def add():
        for _ in range(20):
            with changing(file):
                file.write_text(str(int(file.read_text()) + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() == "80"


def test_whoever_waits_too_long_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.05)

    async def change():
        async with changing_async(tmp_path / "model"):
            return "changed"

    with changing(tmp_path / "model"):
        with (
            pytest.raises(LockedError, match="changing .*model. Try again"),
            changing(tmp_path / "model", seconds=0),
        ):
            pass
        with pytest.raises(LockedError, match="changing .*model. Try again"):
            asyncio.run(change())
        with changing(tmp_path / "another"):
            pass
    assert asyncio.run(change()) == "changed"


def test_a_lock_that_cannot_be_written_is_no_lock(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be changed"), changing(tmp_path / "file" / "model"):
        pass


def test_folders_and_open_files_have_one_holder(tmp_path):
    with locked_folder(tmp_path), pytest.raises(LockedError), locked_folder(tmp_path):
        pass
    with (tmp_path / "journal").open("wb") as first, (tmp_path / "journal").open("wb") as second:
        lock_open_file(first, tmp_path / "journal")
        with pytest.raises(LockedError, match="writing .*journal"):
            lock_open_file(second, tmp_path / "journal")
