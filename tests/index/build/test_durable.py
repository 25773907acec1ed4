"""What a power cut may take: everything is written through to the disk before what could replace it is removed."""

import os
from datetime import timedelta
from pathlib import Path

import lance
import pytest
from documents import record, write_jsonl
from typer.testing import CliRunner

from routerretriever import Index, RouterRetriever
from routerretriever.cli.app import app
from routerretriever.data.document import Document
from routerretriever.index.build import build as build_module
from routerretriever.index.build import chunks as chunks_module
from routerretriever.index.build import folder as folder_module
from routerretriever.index.build import lock as lock_module
from routerretriever.index.build import worker as worker_module
from routerretriever.index.build.settings import BuildSettings


@pytest.fixture(scope="module")
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


@pytest.fixture
def index(model, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks_module, "CHUNK_ROWS", 20)
    return Index.create(tmp_path / "index", model)


class Disk:
    """Which files and folders stand on the disk: those for which fsync was called since they changed last."""

    def __init__(self, monkeypatch):
        self.safe, real = {}, os.fsync

        def fsync(descriptor):
            real(descriptor)
            found = os.fstat(descriptor)
            self.safe[found.st_ino] = found.st_mtime_ns

        monkeypatch.setattr(os, "fsync", fsync)

    def holds(self, path):
        found = Path(path).stat()
        return self.safe.get(found.st_ino) == found.st_mtime_ns

    def lacks(self, folder):
        return [path for path in [folder, *Path(folder).rglob("*")] if not self.holds(path)]


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def test_a_piece_is_on_the_disk_before_its_record(index, disk, tmp_path, monkeypatch):
    data, seen, real = Path(index.uri) / "documents.lance/data", [], worker_module.write_result

    def write_record(folder, done, ids):
        seen.extend(done.data_files())
        assert [name for name in done.data_files() if not disk.holds(data / name)] == []
        assert disk.holds(data)
        assert disk.holds(data.parent)
        real(folder, done, ids)
        assert disk.lacks(Path(index.uri) / "_builds") == []

    monkeypatch.setattr(worker_module, "write_result", write_record)
    index.add(write_jsonl(tmp_path / "a.jsonl", [record(k) for k in range(50)]))
    assert len(set(seen)) == 3


def test_a_build_is_on_the_disk_before_its_records_are_removed(index, disk, tmp_path, monkeypatch):
    dataset, removed, real = Path(index.uri) / "documents.lance", [], folder_module.Folder.remove

    def remove(folder, name=""):
        if not name:
            removed.append(len(lance.dataset(dataset).get_fragments()))
            assert disk.lacks(dataset) == []
        real(folder, name)

    monkeypatch.setattr(folder_module.Folder, "remove", remove)
    index.add(write_jsonl(tmp_path / "a.jsonl", [record(k) for k in range(50)]))
    assert removed == [3]
    assert disk.lacks(dataset) == []  # the end of the claim is a version as well


def test_a_version_names_no_file_that_is_not_on_the_disk(index, disk, tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", [record(k) for k in range(50)])
    index.add(path)
    dataset, real = Path(index.uri) / "documents.lance", lance.LanceDataset.commit
    seen = []

    def commit(*arguments, **options):
        seen.extend((dataset / "_deletions").iterdir())
        assert disk.lacks(dataset / "data") == disk.lacks(dataset / "_deletions") == []
        return real(*arguments, **options)

    monkeypatch.setattr(lance.LanceDataset, "commit", commit)
    index.add(write_jsonl(path, [record(k, "word9" if k == 3 else None) for k in range(50)]))
    assert len(seen) == 1


def test_a_build_resumed_after_its_commit_is_flushed_as_well(index, disk, tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", [record(k) for k in range(50)])
    dataset, removed, real = Path(index.uri) / "documents.lance", [], folder_module.Folder.remove
    with monkeypatch.context() as patch:
        patch.setattr(lock_module, "held_lock", lambda dataset: None)
        patch.setattr(build_module.Build, "_report", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            index.add(path)
    disk.safe.clear()

    def remove(folder, name=""):
        removed.append(name)
        assert disk.lacks(dataset) == []
        real(folder, name)

    monkeypatch.setattr(folder_module.Folder, "remove", remove)
    Index.open(index.uri, index.model).add(path, settings=BuildSettings(resume=True))
    assert removed == [""]


@pytest.mark.parametrize("verb", ["clean", "compact", "refresh"])
def test_nothing_is_removed_before_what_replaces_it_is_on_the_disk(verb, index, disk, tmp_path, monkeypatch):
    for start in range(0, 60, 20):
        index.add(write_jsonl(tmp_path / "a.jsonl", [record(k) for k in range(start, start + 20)]))
    index.upsert(index_documents(5))  # not durable
    dataset, removed, real = Path(index.uri) / "documents.lance", [], lance.LanceDataset.cleanup_old_versions
    assert disk.lacks(dataset) != []
    before = set(dataset.rglob("*"))

    def cleanup(*arguments, **options):
        removed.append(verb)
        assert before <= set(dataset.rglob("*"))
        assert disk.lacks(dataset) == []
        return real(*arguments, **options)

    monkeypatch.setattr(lance.LanceDataset, "cleanup_old_versions", cleanup)
    getattr(index, verb)(*([timedelta(0)] if verb == "clean" else []))
    assert removed == [verb]
    assert (verb == "clean") == (not before <= set(dataset.rglob("*")))
    assert len(index) == 65


def index_documents(count):
    return [Document(f"u{k}", f"word{k}") for k in range(count)]


def test_the_command_line_leaves_nothing_to_a_power_cut(index, disk):
    index.upsert(index_documents(30))
    dataset = Path(index.uri) / "documents.lance"
    assert disk.lacks(dataset) != []
    result = CliRunner().invoke(app, ["index", "build", index.uri, "--kind", "ivf_flat", "--text"])
    assert result.exit_code == 0, result.output
    assert disk.lacks(dataset) == []
