"""An index that is written, read, tidied and killed at the same time."""

import os
import random
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from routerretriever import Index
from routerretriever.data.document import Document
from routerretriever.errors import StorageError, VectorIndexError
from routerretriever.index import connection as index_store
from routerretriever.index import kinds as index_kinds
from routerretriever.index import maintenance, reports, snapshot
from routerretriever.index.table import IndexTable

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def encode(texts):
    return np.stack([np.random.default_rng(len(text)).normal(size=32) for text in texts]).astype(np.float32)


def documents(n, start=0, text="word"):
    return [Document(f"d{k}", f"{text} {k}" + "x" * (k % 50)) for k in range(start, start + n)]


def write(index, n, start=0, **options):
    return index.upsert(documents(n, start), encode=encode, **options)


# -- compaction, refresh, cleaning -----------------------------------------------------------------


@contextmanager
def sizes_of(index):
    """Bytes that an index takes, again and again."""
    sizes, stop = [], threading.Event()

    def watch():
        while not stop.wait(0.002):
            sizes.append(index_store.bytes_on_disk(index.uri))
        sizes.append(index_store.bytes_on_disk(index.uri))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield sizes
    finally:
        stop.set()
        watcher.join()


def write_long(index, n, start=0):
    """Documents of 9 kB that nothing can compress, so that the slack in a bound is little beside them."""
    rng = np.random.default_rng(start)
    texts = [rng.bytes(4000).hex(" ", 16) for _ in range(n)]
    index.upsert([Document(f"d{start + k}", text) for k, text in enumerate(texts)], encode=encode)


def check_bound(done, sizes, index):
    assert done.bytes_before < done.bytes_after == index_store.bytes_on_disk(index.uri) <= max(sizes)
    assert max(sizes) <= done.bytes_at_most < 3.5 * done.bytes_before


def test_compaction_merges_pieces_within_its_bound(index, monkeypatch):
    monkeypatch.setattr(index_kinds, "EXACT_LIMIT", 300)
    for number in range(12):
        write_long(index, 30, 30 * number)
    index.delete([f"d{k}" for k in range(20)])
    index.build_text_index()
    write_long(index, 1, 400)
    index.refresh()  # a second segment, so that compaction builds the vector index anew
    with sizes_of(index) as sizes:
        done = index.compact()
    assert done.fragments_before > done.fragments_after == 1
    check_bound(done, sizes, index)
    assert len(index) == 341
    assert index.search("d", 3, mode="text") == []


@pytest.mark.parametrize("limit", [2, 9])
def test_refresh_stays_within_its_bound(index, monkeypatch, limit):
    monkeypatch.setattr(index_kinds, "EXACT_LIMIT", 300)
    monkeypatch.setattr(maintenance, "SEGMENT_LIMIT", limit)
    write_long(index, 320)
    index.build_text_index()
    for number in range(2):
        write_long(index, 40, 400 + 40 * number)
        with sizes_of(index) as sizes:
            done = index.refresh()
        check_bound(done, sizes, index)
    info = index.describe()
    rows = 40 * info.passages // info.documents
    assert (done.vectors, done.texts, done.rebuilt) == (rows, rows, limit == 2)


def test_many_fragments_are_merged_before_the_first_index_is_built(index, monkeypatch):
    monkeypatch.setattr(index_kinds, "EXACT_LIMIT", 300)
    for number in range(7):
        write(index, 50, 50 * number)
    info = index.describe()
    # The text index of the first write keeps its fragment apart from the six others.
    assert (info.kind.kind, info.documents, info.fragments, info.unindexed) == ("ivf_rq", 350, 2, 0)


def test_segments_do_not_keep_fragments_apart(index, monkeypatch):
    monkeypatch.setattr(index_kinds, "EXACT_LIMIT", 500)
    write(index, 600)
    for number in range(3):
        write(index, 10, 600 + 10 * number)
        index.refresh()
    assert index.describe().fragments == 4
    assert index.compact().fragments_after == 1
    assert index.kind.kind == "ivf_rq"
    assert index.describe().unindexed == 0


def test_refresh_takes_rows_in_and_builds_anew_when_parts_are_many(index, monkeypatch):
    monkeypatch.setattr(index_kinds, "EXACT_LIMIT", 500)
    monkeypatch.setattr(maintenance, "SEGMENT_LIMIT", 3)
    write(index, 600)
    done = index.refresh()
    assert (done.vectors, done.texts, done.rebuilt) == (0, 0, False)
    index.build_text_index()
    rebuilt = []
    for number in range(6):
        write(index, 10, 600 + 10 * number)
        assert index.describe().unindexed == 10
        done = index.refresh()
        assert (done.vectors, done.texts) == (10, 10)
        assert index.describe().unindexed == 0
        rebuilt.append(done.rebuilt)
        assert len(index_kinds.vector_indices(index._store.table.newest())[0].segments) <= 3
    assert rebuilt == [False, False, True, False, False, True]


def test_small_writes_are_taken_in_now_and_then(index, monkeypatch):
    """Not at every write: Lance would add a segment to the index each time."""
    monkeypatch.setattr(index_kinds, "EXACT_LIMIT", 500)
    monkeypatch.setattr(maintenance, "UNINDEXED_LIMIT", 30)
    write(index, 600)
    behind = []
    for number in range(5):
        write(index, 10, 600 + 10 * number)
        behind.append(index.describe().unindexed)
        assert index.search_vectors(encode([documents(1, 600 + 10 * number)[0].content]), 3)
    assert behind == [10, 20, 30, 0, 10]


def test_many_small_writes_leave_few_pieces(index, monkeypatch):
    monkeypatch.setattr(maintenance, "FRAGMENT_LIMIT", 4)
    for number in range(9):
        write(index, 2, 2 * number)
    assert index.describe().fragments <= 5
    assert len(index) == 18


def test_cleaning_keeps_what_is_young(index):
    for number in range(5):
        write(index, 100, 100 * number)
    index.compact()
    kept = index.clean()
    assert kept.versions_after >= kept.versions_before
    done = index.clean(timedelta(0))
    assert done.versions_before >= 6
    assert done.versions_after == 1
    assert done.bytes_after < done.bytes_before
    assert len(index) == 500
    with pytest.raises(VectorIndexError, match="cannot be negative"):
        index.clean(timedelta(days=-1))


def test_info_counts_collections(index):
    index.upsert(documents(3), collection="a", encode=encode)
    index.upsert(documents(4), collection="b'", encode=encode)
    found = index.describe()
    assert found.collections == {"a": 3, "b'": 4}
    assert (found.documents, found.kind.kind, found.text.tokenizer) == (7, "flat", "simple")
    assert found.bytes == sum(path.stat().st_size for path in Path(index.uri).rglob("*") if path.is_file())


def test_caches_are_bounded(index, monkeypatch):
    asked, real = [], snapshot.lance.dataset

    def dataset(uri, **sizes):
        asked.append(tuple(size >> 20 for size in sizes.values()))
        return real(uri, **sizes)

    monkeypatch.setattr(snapshot.lance, "dataset", dataset)
    snapshot.LatestSnapshot(index.uri).get()
    monkeypatch.setenv("ROUTERRETRIEVER_INDEX_CACHE_MIB", "64")
    snapshot.LatestSnapshot(index.uri).get()
    assert asked == [(1024, 128), (64, 128)]


def test_caches_for_writing_are_bounded_too(index, monkeypatch):
    asked, real = [], index_store.lance.Session

    def session(**sizes):
        asked.append(tuple(size >> 20 for size in sizes.values()))
        return real(**sizes)

    monkeypatch.setattr(index_store.lance, "Session", session)
    table = IndexTable.open(index.uri)
    assert asked == [(128, 128)]
    assert table.newest().session().is_same_as(table.newest().session())
    assert len(asked) == 1


def test_an_object_store_is_not_asked_for_versions_at_every_search(index, monkeypatch):
    assert index_store.consistency_interval(index.uri) == timedelta(0)
    assert index_store.consistency_interval("s3://bucket/index") > timedelta(0)
    monkeypatch.setattr(index_store, "LOCAL_INTERVAL", timedelta(hours=1))  # as for one, but longer
    index._store.table.latest = snapshot.LatestSnapshot(index.uri)
    before = index._store.table.latest.get().dataset.version
    Index.open(index.uri, index.model).upsert([Document("other's", "word1")])
    assert index._store.table.latest.get().dataset.version == before
    index.upsert([Document("own", "word2")])  # what this process wrote it sees at once
    found = {hit.id for hit in index.search("word1 word2", k=len(index))}
    assert found >= {"other's", "own"}


# -- writing through to the disk -------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch):
    """Inodes in the order in which fsync was called for them."""
    calls = []
    real = os.fsync

    def fsync(descriptor):
        calls.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return calls


def on_disk(index):
    """Inodes of all files, and of all folders up to the one that holds the index."""
    root = Path(index.uri)
    below = list((root / "documents.lance").rglob("*"))
    files = {path.stat().st_ino for path in below if path.is_file()}
    folders = {
        path.stat().st_ino for path in [*below, root / "documents.lance", root, root.parent] if path.is_dir()
    }
    return files, folders


def test_a_durable_upsert_syncs_every_file_and_folder(index, synced):
    write(index, 20)
    assert synced == []
    write(index, 20, 20, durable=True)
    files, folders = on_disk(index)
    assert set(synced) == files | folders
    assert len(synced) == len(files) + len(folders)
    last_file = max(synced.index(inode) for inode in files)
    assert all(synced.index(inode) > last_file for inode in folders)  # no folder names what is not there


def test_a_flush_syncs_only_what_is_new(index, synced):
    write(index, 20, durable=True)
    files, _ = on_disk(index)
    synced.clear()
    assert index.flush() == reports.Flushed(0, 0)
    index.build_text_index()
    index.delete(["d1"])
    done = index.flush()
    after, folders = on_disk(index)
    assert after - files <= set(synced) <= (after | folders)
    assert done.files >= len(after - files) > 0
    assert len(set(synced) & files) <= 1  # Lance's hint at the newest version is written again


def test_a_disk_that_cannot_write_is_named(index, monkeypatch):
    def fsync(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="could not be written through"):
        write(index, 5, durable=True)


# -- other processes -------------------------------------------------------------------------------


def test_a_reader_sees_what_another_handle_commits(index):
    write(index, 5)
    reader = Index.open(index.uri)
    assert len(reader) == 5
    write(index, 5, 5)
    assert len(reader) == 10
    index.delete(["d0"])
    assert len(reader) == 9


WRITER = """
import sys
import numpy as np
from routerretriever.data.document import Document
from routerretriever.index.index import Index
index = Index.open(sys.argv[1])
for number in range(40):
    block = [Document(f"d{k}", f"round {number}") for k in range(30)]
    index.upsert(block, encode=lambda texts: np.random.default_rng(number).normal(size=(30, 32)).astype(np.float32))
    if number % 10 == 9:
        index.compact()
        index.build_index("ivf_flat")
"""


@pytest.mark.slow
def test_searches_during_writes_see_whole_versions(index):
    """Thirty documents are replaced again and again in another process; no search may see two rounds."""
    index.upsert([Document(f"d{k}", "round -1") for k in range(30)], encode=encode)
    query = np.ones((1, 32), dtype=np.float32)
    with subprocess.Popen([sys.executable, "-c", WRITER, index.uri], stderr=subprocess.PIPE) as writer:
        seen = []
        while writer.poll() is None:
            hits = index.search_vectors(query, 40)[0]
            assert len({hit.id for hit in hits}) == len(hits) == 30
            assert len({hit.text for hit in hits}) == 1
            seen.append(int(hits[0].text.split()[1]))
            time.sleep(0.005)
        assert writer.returncode == 0, writer.stderr.read()
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert index.search_vectors(query, 1)[0][0].text == "round 39"


def test_writers_and_upkeep_do_not_lose_each_others_work(index):
    """Threads with handles of their own write, compact and build at once."""
    write(index, 300)
    errors = []

    def run(work):
        try:
            other = Index.open(index.uri)
            for number in range(6):
                work(other, number)
        except Exception as error:
            errors.append(error)

    works = [
        lambda other, number: other.upsert(documents(20, 1000 + 20 * number), encode=encode),
        lambda other, number: other.compact(),
        lambda other, number: other.build_index("ivf_flat"),
    ]
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(index) == 420
    assert {hit.id for hit in index.search_vectors(encode(["x"]), 500)[0]} >= {
        f"d{k}" for k in range(1000, 1120)
    }


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_acknowledged(index, monkeypatch):
    """A dozen kills; benchmarks/scale_kills.py does two hundred."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(maintenance.__file__).parents[2])]))
    import scale_kills

    with closing(scale_kills.Kills(index.uri, 32, random.Random(5))) as kills:
        found = [kills.once(scale_kills.VERBS[number % 4]) for number in range(12)]
    assert [kill["faults"] for kill in found] == [[]] * 12
    assert sum(kill["acknowledged"] for kill in found) > 3


def test_the_check_after_a_kill_can_fail(index, monkeypatch):
    """Were an acknowledged document lost, or a vector another than its text's."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scale_kills

    kills = scale_kills.Kills(index.uri, 32, random.Random(0))
    list(scale_kills.step(index, "upsert", 0, 32))
    kills.blocks[0] = "upsert"
    assert kills.check("upsert", 20) == []
    index.delete(["d4"])
    assert "block 0 (upsert) has 18" in kills.check("upsert", 20)[0]
    index.upsert([Document("d4", "4 round 0")], encode=encode)
    assert kills.check("upsert", 20) == ["the vector of d4 is not that of its text"]
