"""Shards are found whatever their folder is called, and in whatever case their names end."""

import gzip
import json
from urllib.parse import quote

import pytest

from routerretriever.index.build.chunks import list_chunks
from routerretriever.index.build.paths import below, suffix_of
from routerretriever.index.build.read_chunk import read_chunk


def line(document_id):
    return json.dumps({"_id": document_id, "text": "word1"}) + "\n"


def ids(source):
    return [row.document.id for chunk in list_chunks(source).chunks for row in read_chunk(chunk)]


@pytest.mark.parametrize("name", ["plain", "with space", "größer", "100% #1?"])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_folder_is_a_path_or_a_uri(tmp_path, name, end):
    folder = tmp_path / name
    (folder / "deep er").mkdir(parents=True)
    (folder / "b#1.jsonl").write_text(line("b"))
    (folder / "deep er" / "a.jsonl").write_text(line("a"))
    assert sorted(ids(folder)) == sorted(ids(f"file://{quote(str(folder))}{end}")) == ["a", "b"]


def test_endings_are_read_in_any_case(tmp_path):
    (tmp_path / "a.jsonl").write_text(line("a"))
    (tmp_path / "B.JSONL").write_text(line("b"))
    (tmp_path / "c.Jsonl.GZ").write_bytes(gzip.compress(line("c").encode()))
    (tmp_path / "d.ndjson.gz").write_bytes(gzip.compress(line("d").encode()))
    assert sorted(ids(tmp_path)) == ["a", "b", "c", "d"]
    assert ids(tmp_path / "B.JSONL") == ["b"] and ids(tmp_path / "c.Jsonl.GZ") == ["c"]


@pytest.mark.parametrize("end", ["", "/"])
@pytest.mark.parametrize("options", ["", "?region=us-east-1&endpoint_override=http://127.0.0.1:1"])
def test_shards_of_an_object_store_keep_the_options_of_their_folder(end, options):
    shard = below(f"s3://bucket/my%20docs{end}{options}", "deep/part 1.parquet")
    assert shard == f"s3://bucket/my%20docs/deep/part%201.parquet{options}"
    assert suffix_of(shard) == ".parquet"
