"""Shards and index in an object store, whose address and credentials come from the environment alone."""

import json
import logging
from pathlib import Path

import pytest
from documents import Killed, killed_after, record, stored
from pyarrow import fs

from routerretriever import Index, RouterRetriever
from routerretriever.errors import BuildError, CollectionError, RouterRetrieverError
from routerretriever.index.build import chunks as chunks_module
from routerretriever.index.build import lock as lock_module
from routerretriever.index.build.settings import BuildSettings


@pytest.fixture(scope="module")
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


@pytest.fixture
def shards(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("ROUTERRETRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(chunks_module, "CHUNK_ROWS", 20)
    for part in range(3):
        put(s3.uri(f"docs/{part}.jsonl.gz"), [record(k) for k in range(part * 30, part * 30 + 30)])
    return s3.uri("docs")


def put(uri, records):
    system, path = fs.FileSystem.from_uri(uri)
    with system.open_output_stream(path, compression="detect") as out:
        out.write("".join(json.dumps(item) + "\n" for item in records).encode())


def objects(bucket):
    system, path = fs.FileSystem.from_uri(f"s3://{bucket}")
    found = system.get_file_info(fs.FileSelector(path, recursive=True))
    return {item.path: system.open_input_file(item.path).read() for item in found if item.is_file}


def test_everything_in_an_object_store(s3, shards, model, caplog):
    caplog.set_level(logging.DEBUG)
    index = Index.create(s3.uri("index"), model)
    report = index.add(shards)
    assert (report.documents, report.encoded, report.chunks) == (90, 90, 6)
    assert len(stored(index)) == 90
    assert index.add(shards).encoded == 0
    put(f"{shards}/0.jsonl.gz", [record(k, "word5" if k == 7 else None) for k in range(29)])
    report = Index.open(s3.uri("index"), model).add(shards, settings=BuildSettings(prune=True))
    assert (report.encoded, report.replaced, report.gone) == (1, 1, 1)
    assert index.search("word3 word21", k=1, where="year = 1993")[0].id == "d3"
    index.build_text_index()
    assert index.search("word8", k=1, mode="text")[0].id == "d8"
    index.delete(["d8"], collection="docs")
    index.compact()
    assert len(index) == 88
    secrets = (b"nobody", b"nothing")
    assert not [
        name for name, content in objects(s3.bucket).items() if any(secret in content for secret in secrets)
    ]
    assert "nothing" not in caplog.text
    assert not [name for name in objects(s3.bucket) if "/_builds/" in name]


def test_a_killed_build_goes_on(s3, shards, model, monkeypatch):
    index = Index.create(s3.uri("index"), model)
    with monkeypatch.context() as patch:
        patch.setattr(lock_module, "held_lock", lambda dataset: None)  # nobody takes the claim back
        killed_after(patch, model, 3)
        with pytest.raises(Killed):
            index.add(shards)
    with pytest.raises(BuildError, match="--resume"):
        index.add(shards)
    report = index.add(shards, settings=BuildSettings(resume=True))
    assert (report.encoded, report.recorded) == (90, 50)
    assert len(stored(index)) == 90


def test_bad_lines_are_put_aside_in_the_store(s3, shards, model):
    put(f"{shards}/3.jsonl", [{"text": "no id"}])
    index = Index.create(s3.uri("index"), model)
    with pytest.raises(
        CollectionError, match=r"s3://bucket/docs/3\.jsonl, line 1: the record has no field '_id'"
    ):
        index.add(shards)
    report = index.add(shards, settings=BuildSettings(on_error="quarantine"))
    system, path = fs.FileSystem.from_uri(report.quarantine)
    assert json.loads(system.open_input_file(path).read())["raw"] == '{"text": "no id"}'


def test_nothing_there(s3, model, tmp_path):
    index = Index.create(tmp_path / "index", model)
    with pytest.raises(CollectionError, match="nothing at s3://bucket/none"):
        index.add(s3.uri("none"))
    with pytest.raises(RouterRetrieverError, match="s3://elsewhere/docs"):
        index.add("s3://elsewhere/docs")
    assert Path(index.uri).is_dir()
