"""What Parquet holds beside texts and numbers is kept where it can be filtered by, and named where not."""

import datetime as dt
import json
from decimal import Decimal

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import write_jsonl
from typer.testing import CliRunner

from routerretriever import Index, RouterRetriever
from routerretriever.cli.app import app
from routerretriever.errors import CollectionError

BERLIN = dt.timezone(dt.timedelta(hours=2))
FIELDS = {
    "published": pa.array([dt.date(2023, 5, 1), dt.date(2024, 6, 2), None], pa.date32()),
    "changed": pa.array(
        [dt.datetime(2023, 5, 1, 14, tzinfo=BERLIN), None, dt.datetime(2025, 1, 1, tzinfo=dt.UTC)],
        pa.timestamp("ns", "Europe/Berlin"),
    ),
    "local": pa.array([dt.datetime(2023, 5, 1, 12, 0, 0, 5)] * 3, pa.timestamp("us")),
    "opens": pa.array([dt.time(8, 30)] * 3, pa.time64("ns")),
    "price": pa.array([Decimal("9.90"), Decimal("12.50"), None], pa.decimal128(8, 2)),
    "half": pa.array([0.5, float("nan"), None], pa.float32()),
    "year": pa.array([2023, 2024, 2025], pa.uint16()),
    "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
    "name": pa.array(["x", "y", "z"], pa.large_string()),
    "draft": pa.array([True, False, None]),
    "tags": pa.array([["snow"], [], None]),
    "raw": pa.array([b"\x00", b"a", b""]),
    "empty": pa.array([None, None, None], pa.list_(pa.string())),
    "metadata": pa.array([{"day": dt.date(2020, 1, 1), "deep": {"a": 1}}] * 3),
    "__index_level_0__": pa.array([5, 9, 11]),
}
FOUND = {
    "published": "2023-05-01",
    "changed": "2023-05-01T12:00:00+00:00",
    "local": "2023-05-01T12:00:00.000005",
    "opens": "08:30:00",
    "price": 9.9,
    "half": 0.5,
    "year": 2023,
    "kind": "a",
    "name": "x",
    "draft": True,
    "day": "2020-01-01",
}


@pytest.fixture(scope="module")
def model_path(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("parquet") / "model"
    RouterRetriever.create(str(checkpoint), device="cpu").save_pretrained(path)
    return path


@pytest.fixture
def notes(tmp_path):
    columns = {"_id": ["p1", "p2", "p3"], "text": ["word1", "word2", "word3"], **FIELDS}
    pq.write_table(pa.table(columns), tmp_path / "notes.parquet")
    return tmp_path / "notes.parquet"


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def test_scalars_are_kept_and_others_are_named(model_path, notes, tmp_path):
    index = Index.create(tmp_path / "index", RouterRetriever.from_pretrained(model_path, device="cpu"))
    report = index.add(notes)
    assert (report.documents, report.problems) == (3, ())
    assert report.left_out == ("deep", "raw", "tags")
    hits = {hit.id: hit.metadata for hit in index.search("word1")}
    assert hits["p1"] == FOUND
    assert hits["p2"].keys() == FOUND.keys() - {"changed", "half"}
    found = index.search("word1", where={"published": {"gte": "2024-01-01"}, "price": {"gt": 10}})
    assert [hit.id for hit in found] == ["p2"]
    assert {hit.id for hit in index.search("word1", where={"half": None})} == {"p2", "p3"}
    assert index.add(notes).unchanged == 3


def test_decimals_without_decimal_places_are_whole_numbers(model_path, tmp_path):
    """Some databases export every whole number as a decimal; two long ids would become one float."""
    ids = [Decimal("12345678901234567890"), Decimal("12345678901234567891")]
    columns = {"_id": pa.array(ids), "text": ["word1", "word2"], "year": pa.array([Decimal(2023), None])}
    pq.write_table(pa.table(columns), tmp_path / "numbers.parquet")
    index = Index.create(tmp_path / "index", RouterRetriever.from_pretrained(model_path, device="cpu"))
    index.add(tmp_path / "numbers.parquet")
    found = {hit.id: hit.metadata for hit in index.search("word1")}
    assert found == {str(ids[0]): {"year": 2023}, str(ids[1]): {}}
    assert isinstance(found[str(ids[0])]["year"], int)


def test_a_date_out_of_range_is_a_problem_of_its_shard(model_path, tmp_path):
    columns = {"_id": ["a", "b"], "text": ["word1", "word2"], "day": pa.array([0, 10**7], pa.date32())}
    pq.write_table(pa.table(columns), tmp_path / "far.parquet")
    index = Index.create(tmp_path / "index", RouterRetriever.from_pretrained(model_path, device="cpu"))
    with pytest.raises(CollectionError, match="far.parquet, line 0: cannot be read further.*out of range"):
        index.add(tmp_path / "far.parquet")


def test_the_command_names_them_and_writes_json_that_others_can_read(model_path, notes, tmp_path):
    done = run("index", model_path, tmp_path / "index", notes)
    assert "Fields left out, since they hold lists or the like: deep, raw, tags." in done.stderr
    answer = run("search", tmp_path / "index", "word1", "--json").stdout
    hits = json.loads(answer, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["hits"]
    assert {hit["id"]: hit["metadata"].get("half") for hit in hits} == {"p1": 0.5, "p2": None, "p3": None}


def test_lists_in_jsonl_are_named_as_well(model_path, tmp_path):
    records = [
        {"_id": "a", "text": "word1", "tags": ["x"], "year": 1},
        {"_id": "b", "text": "word2", "tags": None},
    ]
    done = run("index", model_path, tmp_path / "index", write_jsonl(tmp_path / "a.jsonl", records))
    assert "lists or the like: tags." in done.stderr


def test_numbers_that_json_cannot_hold_become_null(model_path, tmp_path):
    pq.write_table(pa.table({"_id": ["a"], "text": ["word1"], "x": [float("inf")]}), tmp_path / "a.parquet")
    run("index", model_path, tmp_path / "index", tmp_path / "a.parquet")
    answer = run("search", tmp_path / "index", "word1", "--json").stdout
    hits = json.loads(answer, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["hits"]
    assert hits[0]["metadata"] == {"x": None}
    assert lance.dataset(tmp_path / "index" / "documents.lance").to_table()["x"].to_pylist() == [float("inf")]
