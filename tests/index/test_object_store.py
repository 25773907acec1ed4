"""One bucket, two libraries, and nothing but the environment that tells them where it is."""

import json
import os
import subprocess
import sys

import lance
import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.json
import pytest
from lance.fragment import write_fragments

from routerretriever.index.connection import exists

pytestmark = pytest.mark.slow  # moto starts for every test

VECTORS = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
SCHEMA = pa.schema([("key", pa.string()), ("vector", pa.list_(pa.float32(), 8))], metadata={"kept": "yes"})


def rows(numbers):
    return pa.table(
        {"key": [f"k{n}" for n in numbers], "vector": list(VECTORS[list(numbers)])}, schema=SCHEMA
    )


def test_a_commit_is_seen_by_who_opened_the_table_before(s3):
    table = lance.write_dataset(rows(range(10)), s3.uri("index/documents.lance"))
    source = lance.dataset(s3.uri("index/documents.lance"))
    fragments = write_fragments(rows(range(10, 20)), source, mode="append")
    lance.LanceDataset.commit(source, lance.LanceOperation.Append(fragments), read_version=source.version)
    table.checkout_latest()
    assert table.count_rows() == 20
    nearest = {"column": "vector", "q": VECTORS[15], "k": 1, "metric": "cosine"}
    assert table.to_table(nearest=nearest)["key"].to_pylist() == ["k15"]
    assert table.schema.metadata == SCHEMA.metadata


def test_only_a_table_is_an_index(s3):
    assert not exists(s3.uri("index"))
    lance.write_dataset(rows(range(10)), s3.uri("index/documents.lance"))
    assert exists(s3.uri("index"))
    assert exists(f"{s3.uri('index')}/")
    assert not exists(s3.uri("inde"))


def test_pyarrow_lists_and_reads(s3):
    filesystem, path = pyarrow.fs.FileSystem.from_uri(s3.uri("shards/a.jsonl"))
    with filesystem.open_output_stream(path) as out:
        out.write(b"".join(json.dumps({"_id": str(n)}).encode() + b"\n" for n in range(3)))
    listed = filesystem.get_file_info(pyarrow.fs.FileSelector(f"{s3.bucket}/shards"))
    assert [(found.path, found.size) for found in listed] == [(path, 39)]
    with filesystem.open_input_stream(path) as source:
        assert pyarrow.json.read_json(source)["_id"].to_pylist() == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("library", "needed"),
    [
        ("lance", {"AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}),
        ("pyarrow", {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}),
    ],
)
def test_what_each_library_needs_of_the_environment(s3, library, needed):
    """No more than this, so that the manual can say it."""
    script = {
        "lance": "import lance, pyarrow as pa; lance.write_dataset(pa.table({'a': [1]}), uri + '/t.lance')",
        "pyarrow": "from pyarrow import fs; f, p = fs.FileSystem.from_uri(uri); f.get_file_info(fs.FileSelector('bucket'))",
    }[library]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [sys.executable, "-c", f"uri = {s3.uri(library)!r}; {script}"]
    given = {name: s3.environment[name] for name in needed}
    done = subprocess.run(
        command, env={**bare, **given}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
