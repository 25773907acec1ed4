"""A collection has one name, whichever command reads it."""

import json

import pytest
from tiny import write_beir

from routerretriever.data.collection import Collection
from routerretriever.data.names import collection_name, data_suffix, file_name_of
from routerretriever.errors import CollectionError
from routerretriever.index.build.chunks import list_chunks
from routerretriever.index.build.settings import BuildSettings
from routerretriever.index.build.sources import listing_of
from routerretriever.synthesis.passages import load_documents


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("BeIR/scifact", "scifact"),
        ("org/data.v2", "data.v2"),
        ("ir_datasets:beir/scifact", "scifact"),
        ("ir_datasets:vaswani", "vaswani"),
        ("s3://bucket/docs/my.coll.v2.jsonl.zst", "my.coll.v2"),
        ("s3://bucket/docs/my.coll.v2", "my.coll.v2"),
        ("s3://bucket/docs.v2/", "docs.v2"),
        ("s3://bucket/docs.parquet?endpoint_override=http://127.0.0.1:5000", "docs"),
    ],
)
def test_names_of_remote_sources(source, name):
    assert collection_name(source) == name


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("pairs.jsonl", "pairs"),
        ("pairs.jsonl.gz", "pairs"),
        ("pairs.jsonl.zst", "pairs"),
        ("pairs.ndjson", "pairs"),
        ("my.coll.v2.csv", "my.coll.v2"),
        ("UPPER.CSV", "UPPER"),
        ("notes.txt", "notes.txt"),
        (".jsonl", ".jsonl"),
    ],
)
def test_files_lose_data_suffixes_only(tmp_path, file, name):
    (tmp_path / file).touch()
    assert collection_name(tmp_path / file) == name


def test_folders_keep_their_whole_name_and_are_resolved(tmp_path, monkeypatch):
    folder = tmp_path / "my.coll.v2.jsonl"
    folder.mkdir()
    assert collection_name(folder) == "my.coll.v2.jsonl"
    assert collection_name(f"{folder}/") == "my.coll.v2.jsonl"
    monkeypatch.chdir(folder)
    assert collection_name(".") == "my.coll.v2.jsonl"
    assert collection_name("..") == tmp_path.name
    with pytest.raises(CollectionError, match="has no name"):
        collection_name("/")


def test_links_have_a_name_of_their_own(tmp_path):
    """A hub's cache links names to files that are called by their hash."""
    (tmp_path / "6f00a1").write_text("{}")
    (tmp_path / "pairs.jsonl").symlink_to(tmp_path / "6f00a1")
    assert collection_name(tmp_path / "pairs.jsonl") == "pairs"


def test_names_as_file_names():
    assert file_name_of("nl2bash v2.1 (größer)") == "nl2bash v2.1 (größer)"
    odd = ["a/b", "a%2Fb", "..", "../../etc/x", ".hidden", "a\\b", "CON", "con.x", "nul", "a:b*?", "x.", "x "]
    odd += ["x" * 300, "x" * 299, "東" * 300, "", "LPT1", 'a<b>|"c']
    written = [file_name_of(name) for name in odd]
    assert len(set(written)) == len(odd)
    for name in written:
        assert len(name.encode()) < 150 and not name.startswith(".") and not name.endswith((".", " "))
        assert not set('/\\:*?"<>|') & set(name)
        assert name.split(".")[0].upper() not in ("CON", "NUL", "LPT1")


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "a\x1fb", "\ud800"])
def test_control_characters_in_a_name_are_refused_at_every_door(tmp_path, name):
    folder = write_beir(tmp_path / "c", {"d": "one"}, {"q": "two"}, {"test": {"q": {"d": 1}}})
    with pytest.raises(CollectionError, match="control character"):
        Collection.load(folder, name=name)
    with pytest.raises(CollectionError, match="control character"):
        listing_of(folder, name, BuildSettings())


def test_kinds_of_files():
    assert data_suffix("a.CSV.gz") == ".csv"
    assert data_suffix("a.b") == ""


def test_train_index_and_synthesize_agree(tmp_path, monkeypatch):
    folder = write_beir(tmp_path / "my.coll.v2", {"d": "one"}, {"q": "two"}, {"test": {"q": {"d": 1}}})
    monkeypatch.chdir(folder)
    for source in (folder, f"{folder}/", "."):
        names = {Collection.load(source).name, list_chunks(source).name, load_documents(source)[0]}
        assert names == {"my.coll.v2"}
    shard = tmp_path / "docs.v2.jsonl"
    shard.write_text(json.dumps({"_id": "d", "text": "one"}) + "\n")
    assert {list_chunks(shard).name, load_documents(shard)[0]} == {"docs.v2"}
