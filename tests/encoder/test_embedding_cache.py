import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from routerretriever.encoder.embedding_cache import EmbeddingCache
from routerretriever.errors import StorageError
from routerretriever.progress import Silent


def embed(texts, done=None):
    return np.array([[len(text), sum(text.encode())] for text in texts], np.float32)


def test_encodes_each_text_once_and_keeps_order(tmp_path):
    calls = []

    def counted(texts, done):
        calls.extend(texts)
        return embed(texts)

    cache = EmbeddingCache("a", 2, tmp_path)
    texts = ["bb", "a", "bb", "cccc"]
    np.testing.assert_array_equal(cache.vectors(texts, counted), embed(texts))
    np.testing.assert_array_equal(
        EmbeddingCache("a", 2, tmp_path).vectors([*texts, "d"], counted), embed([*texts, "d"])
    )
    assert sorted(calls) == ["a", "bb", "cccc", "d"]
    assert cache.vectors([], counted).shape == (0, 2)


def test_another_base_shares_nothing(tmp_path):
    EmbeddingCache("a", 2, tmp_path).vectors(["x"], embed)
    other = EmbeddingCache("b", 2, tmp_path).vectors(["x"], lambda texts, done: 2 * embed(texts))
    np.testing.assert_array_equal(other, 2 * embed(["x"]))


def test_entry_of_another_length_is_not_returned(tmp_path):
    EmbeddingCache("a", 2, tmp_path).vectors(["x"], embed)
    wider = EmbeddingCache("a", 3, tmp_path).vectors(["x"], lambda t, done: np.ones((len(t), 3), np.float32))
    np.testing.assert_array_equal(wider, np.ones((1, 3)))


def test_each_vector_is_read_once_and_progress_knows_how_many_are_new(tmp_path, monkeypatch):
    EmbeddingCache("a", 2, tmp_path).vectors(["x", "y"], embed)
    read, announced = [], []
    plain = EmbeddingCache._read

    def counted(self, connection, keys):
        read.extend(keys)
        return plain(self, connection, keys)

    class Noted(Silent):
        def task(self, description, total):
            announced.append(total)
            return super().task(description, total)

    monkeypatch.setattr(EmbeddingCache, "_read", counted)
    EmbeddingCache("a", 2, tmp_path).vectors(["x", "y", "z"], embed, progress=Noted())
    assert len(read) == 3 and announced == [1]


@pytest.mark.slow
def test_survives_kill_at_any_moment(tmp_path):
    """A process is killed while it writes; what the next one reads is whole."""
    program = textwrap.dedent(
        """
        import sys, numpy as np
        from pathlib import Path
        from routerretriever.encoder import embedding_cache
        embedding_cache._WRITE_BLOCK = 8
        def embed(texts, done):
            print("block", flush=True)
            return np.array([[len(t), sum(t.encode())] for t in texts], np.float32)
        texts = [f"text number {n}" for n in range(100_000)]
        embedding_cache.EmbeddingCache("a", 2, Path(sys.argv[1])).vectors(texts, embed)
        """
    )
    for blocks in (1, 5, 40):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(blocks):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    cache = EmbeddingCache("a", 2, tmp_path)
    texts = [f"text number {n}" for n in range(100_000)]
    encoded = []

    def noted(block, done):
        encoded.extend(block)
        return embed(block)

    cache.vectors(texts, noted)
    assert len(encoded) < len(texts)
    sample = texts[-400:]
    np.testing.assert_array_equal(cache.vectors(sample, embed), embed(sample))


def test_damaged_file_and_full_disk_are_named(tmp_path):
    cache = EmbeddingCache("a", 2, tmp_path)
    cache.path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StorageError, match="delete the file if it is damaged"):
        cache.vectors(["x"], embed)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_unwritable_directory_is_named():
    with pytest.raises(StorageError, match="ROUTERRETRIEVER_CACHE"):
        EmbeddingCache("a", 2, Path("/dev/full/x")).vectors(["x"], embed)


def test_vectors_from_elsewhere_replace_what_is_there_or_leave_it(tmp_path):
    cache = EmbeddingCache("a", 2, tmp_path)
    first, second = np.ones((1, 2), np.float32), np.full((2, 2), 2.0)
    cache.put(["x"], first)
    cache.put(["x", "y"], second, replacing=False)
    np.testing.assert_array_equal(cache.vectors(["x", "y"], embed), [[1, 1], [2, 2]])
    cache.put(["x"], second[:1])
    np.testing.assert_array_equal(cache.vectors(["x"], embed), [[2, 2]])


def test_several_make_the_same_file_at_once(tmp_path):
    def write(number):
        cache = EmbeddingCache("base", 4, tmp_path / str(number // 6))
        return cache.vectors([f"{number}"], lambda texts, _: np.ones((len(texts), 4), np.float32))

    with ThreadPoolExecutor(6) as pool:
        assert len(list(pool.map(write, range(120)))) == 120
