"""One reader of lines for collections, shards, journals and logs."""

import gzip
import json

import pyarrow as pa
import pytest

from routerretriever.data.jsonl import (
    LineError,
    numbered_lines,
    parse_object,
    read_bytes,
    read_jsonl,
    read_lines,
)
from routerretriever.errors import CollectionError

LINES = b'{"a": 1}\n\n{"a": 2}\r\n{"a": "\xc3\xa9"}'


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_are_numbered_in_plain_and_compressed_files(tmp_path, name, mark):
    content = mark + LINES
    if name.endswith(".gz"):
        # Two members, as `cat a.gz b.gz` makes them.
        content = gzip.compress(content[:9]) + gzip.compress(content[9:])
    if name.endswith(".zst"):
        content = pa.compress(content, codec="zstd", asbytes=True)
    path = tmp_path / name
    path.write_bytes(content)
    read = list(read_jsonl(path))
    assert [record["a"] for _, record in read] == [1, 2, "é"]
    assert [where for where, _ in read] == [f"{path}, line {n}" for n in (1, 3, 4)]
    assert next(text.strip() for _, text in read_lines(path)) == '{"a": 1}'
    assert read_bytes(path).endswith(LINES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": ', r"line 2: not valid JSON.*truncated"),
        (b'{"a": 1}\n{"a": "\xe9"}\n', r"line 2: not UTF-8"),
        ('{"a": 1}\n'.encode("utf-16"), r"line 1: the file is UTF-16. Save it as UTF-8"),
        (b"\n5\n", r"line 2: expected a JSON object, found int"),
        (b'[{"a": 1}]', r"line 1: .*JSON array.*jq -c"),
        (b'[\n  {\n    "a": 1\n  }\n]\n', r"line 1: .*JSON array.*jq -c"),
        (b'{"a":' * 100_000, r"line 1: not valid JSON"),
    ],
)
def test_errors_name_the_line_and_the_cause(tmp_path, content, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(CollectionError, match=message):
        list(read_jsonl(path))


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst"])
def test_a_truncated_file_is_named_with_the_last_whole_line(tmp_path, name):
    content = b"".join(json.dumps({"a": n, "b": str(n) * 50}).encode() + b"\n" for n in range(5000))
    packed = (
        gzip.compress(content) if name.endswith(".gz") else pa.compress(content, codec="zstd", asbytes=True)
    )
    (tmp_path / name).write_bytes(packed[:-40])
    with pytest.raises(CollectionError, match=r"after line \d+: cannot be read further.*truncated"):
        list(read_jsonl(tmp_path / name))
    with pytest.raises(CollectionError, match="cannot be read further"):
        read_bytes(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CollectionError, match=r"nothing\.jsonl is missing"):
        list(read_jsonl(tmp_path / "nothing.jsonl"))


def test_lines_of_any_stream_are_numbered_and_parsed():
    assert list(numbered_lines([b"\xef\xbb\xbf{}\n", b"  \n", b"{}"])) == [(1, b"{}\n"), (3, b"{}")]
    assert parse_object(b"\xef\xbb\xbf{}") == {}
    with pytest.raises(LineError, match="JSON array"):
        parse_object(b"[1]")
