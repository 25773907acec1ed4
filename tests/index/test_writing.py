"""Documents meet one check and one writer, whichever door they come through."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import lance
import numpy as np
import pytest
from documents import stored, write_jsonl
from tiny import write_beir

from routerretriever import Index
from routerretriever.data.document import Document
from routerretriever.errors import CollectionError, StorageError, VectorIndexError
from routerretriever.index import commit as commit_module
from routerretriever.index import writer as writer_module
from routerretriever.index.build import build as build_module


def encode(texts):
    return np.stack([np.random.default_rng(len(text)).normal(size=32) for text in texts]).astype(np.float32)


def through_upsert(index, metadata, tmp_path):
    index.upsert([Document(f"d{n}", "word1", "", fields) for n, fields in enumerate(metadata)], encode=encode)


def through_add(index, metadata, tmp_path):
    records = [{"_id": f"d{n}", "text": "word1", "metadata": fields} for n, fields in enumerate(metadata)]
    index.add(write_jsonl(tmp_path / "docs.jsonl", records), collection="")


DOORS = [through_upsert, through_add]


def columns(index):
    return set(lance.dataset(f"{index.uri}/documents.lance").schema.names)


def metadata_of(index, name):
    rows = lance.dataset(f"{index.uri}/documents.lance").to_table(columns=["id", name]).to_pylist()
    return {row["id"]: row[name] for row in rows}


# -- names and values ------------------------------------------------------------------------------

REFUSED_NAMES = [
    ("_distance", "'_distance' begins with '_'"),
    ("_score", "'_score' begins with '_'"),
    ("_rowid", "'_rowid' begins with '_'"),
    ("_rowaddr", "'_rowaddr' begins with '_'"),
    ("_index", "'_index' begins with '_'"),
    ("hash", "needs the name of the field 'hash' itself"),
    ("collection", "needs the name of the field 'collection' itself"),
    ("and", "'and' has the name of an operator"),
    ("not", "'not' has the name of an operator"),
    ("log.level", "'log.level' holds a dot"),
    ("a`b", "holds a dot, a backtick"),
    ("a\0b", "control character"),
    ("", "empty name"),
    ("x" * 256, "more than 255 characters"),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("name", "message"), REFUSED_NAMES)
def test_names_that_no_column_can_have_are_refused(index, tmp_path, door, name, message):
    before = columns(index)
    with pytest.raises(CollectionError, match=message):
        door(index, [{"year": 1}, {name: 1}], tmp_path)
    assert len(index) == 0
    assert columns(index) == before


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "name", ["Publication date", "log-level", "é", "select", "And", "a'b", 'a"b', "$", "1st"]
)
def test_all_other_names_can_be_filtered_by(index, tmp_path, door, name):
    door(index, [{name: 1}, {name: 2}], tmp_path)
    hits = index.search_vectors(encode(["word1"]), where={name: 2})[0]
    assert [(hit.id, hit.metadata) for hit in hits] == [("d1", {name: 2})]


@pytest.mark.parametrize("value", [["a"], {"a": 1}, b"a", object(), np.int64(3)])
def test_values_that_no_column_can_hold_are_refused(index, value):
    before = columns(index)
    for door in (index.upsert, index.add):
        with pytest.raises(CollectionError, match=f"Document 1: the field 'x' holds {type(value).__name__}"):
            door([Document("d", "word1", "", {"x": value})])
    assert columns(index) == before


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (Document(5, "word1"), "'id' holds 5"),
        (Document("d", None), "'text' holds None"),
        (Document("d", "word1", None), "'title' holds None"),
        (Document("d", "word1", "", None), "the metadata is no mapping"),
        (Document("d", "word1", "", {5: 1}), "the metadata is no mapping"),
        ({"id": "d", "text": "word1"}, "this is dict. Give a Document"),
        ("d", "this is str. Give a Document"),
    ],
)
def test_what_is_no_document_is_refused(index, document, message):
    for door in (index.upsert, index.add):
        with pytest.raises(CollectionError, match=f"Document 1: {message}"):
            door([document])
    assert len(index) == 0


def test_one_text_is_no_list_of_ids(index):
    """Its characters would be the ids of the documents that are deleted."""
    index.upsert([Document("a", "word1"), Document("b", "word1")], encode=encode)
    for ids, message in (("ab", "is one text"), ([5], "An id is a text"), (["\ud800"], "An id is a text")):
        for door in (index.delete, index.lookup):
            with pytest.raises(CollectionError, match=message):
                door(ids)
    assert len(index) == 2


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused(index, wrong):
    with pytest.raises(VectorIndexError, match="not finite"):
        index.upsert(
            [Document("a", "word1")], encode=lambda texts: np.full((len(texts), 32), wrong, np.float32)
        )
    assert len(index) == 0


@pytest.mark.parametrize("door", DOORS)
def test_a_float_is_never_rounded_to_fit(index, tmp_path, door):
    door(index, [{"price": 5}], tmp_path)
    with pytest.raises(CollectionError, match="'price' is float here and int64 in the index"):
        door(index, [{"price": 9.99}], tmp_path)
    assert metadata_of(index, "price") == {"d0": 5}


@pytest.mark.parametrize("door", DOORS)
def test_whole_numbers_and_floats_of_one_call_make_floats(index, tmp_path, door, monkeypatch):
    monkeypatch.setattr(writer_module, "BLOCK_ROWS", 2)
    door(index, [{"price": 5}, {}, {"price": None}, {"price": 9.99}], tmp_path)
    assert metadata_of(index, "price") == {"d0": 5.0, "d1": None, "d2": None, "d3": 9.99}
    door(index, [{"price": 7}], tmp_path)
    assert metadata_of(index, "price")["d0"] == 7.0


@pytest.mark.parametrize("door", DOORS)
def test_a_long_whole_number_that_a_float_holds_is_stored_beside_floats(index, tmp_path, door):
    door(index, [{"size": 2**53 + 2}, {"size": 0.5}], tmp_path)
    assert metadata_of(index, "size") == {"d0": 2.0**53 + 2, "d1": 0.5}
    with pytest.raises(CollectionError, match="'size' is int here and double"):
        door(index, [{"size": 2**53 + 1}], tmp_path)


@pytest.mark.parametrize("door", DOORS)
def test_two_types_of_one_field_are_refused(index, tmp_path, door):
    with pytest.raises(CollectionError, match="'year' is str here and int64"):
        door(index, [{"year": 1}, {"year": "late"}], tmp_path)
    with pytest.raises(CollectionError, match="'year' is bool here and int64"):
        door(index, [{"year": 1}, {"year": True}], tmp_path)
    assert len(index) == 0
    assert "year" not in columns(index)


@pytest.mark.parametrize("door", DOORS)
def test_null_and_nan_are_no_value(index, tmp_path, door):
    door(index, [{"half": 0.5, "none": None}, {"half": float("nan")}], tmp_path)
    assert metadata_of(index, "half") == {"d0": 0.5, "d1": None}
    assert "none" not in columns(index)
    assert [hit.id for hit in index.search_vectors(encode(["x"]), where={"half": None})[0]] == ["d1"]


# -- a write that fails ----------------------------------------------------------------------------


def test_a_write_that_fails_adds_no_column(index, monkeypatch):
    index.upsert([Document("old", "word1", "", {"year": 1})], encode=encode)
    before = columns(index)
    with monkeypatch.context() as patch:
        patch.setattr(
            writer_module, "write_fragments", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
        )
        with pytest.raises(StorageError, match="disk full"):
            index.upsert([Document("new", "word1", "", {"colour": "red"})], encode=encode)
    assert columns(index) == before
    with pytest.raises(VectorIndexError, match="vectors of shape"):
        index.upsert(
            [Document("new", "word1", "", {"colour": "red"})],
            encode=lambda texts: np.ones((1, 5), np.float32),
        )
    assert columns(index) == before
    index.upsert([Document("new", "word1", "", {"colour": 7})], encode=encode)
    assert metadata_of(index, "colour") == {"old": None, "new": 7}


@pytest.mark.parametrize("door", ["file", "BEIR folder"])
def test_lists_and_objects_of_files_are_left_out_and_named_once(index, tmp_path, door):
    fields = {"tags": ["a"], "year": 1990, "metadata": {"deep": {"x": 1}, "half": 0.5}}
    records = [{"_id": str(n), "text": "word1", **fields} for n in range(3)]
    folder = tmp_path / "notes"
    write_beir(folder, {}, {"q": "word1"}, {"test": {"q": {"1": 1}}})
    corpus = write_jsonl(folder / "corpus.jsonl", records)
    report = index.add(corpus if door == "file" else folder)
    assert (report.documents, report.left_out) == (3, ("deep", "tags"))
    assert columns(index) >= {"year", "half"}
    assert not columns(index) & {"deep", "tags"}


@pytest.mark.parametrize("value", [["a"], {"x": 1}, []])
def test_lists_and_objects_of_a_call_are_refused_by_name(index, value):
    before = columns(index)
    for write in (index.upsert, index.add):
        with pytest.raises(CollectionError, match=f"the field 'tags' holds {type(value).__name__}"):
            write([Document("a", "word1"), Document("b", "word1", "", {"tags": value})])
    assert columns(index) == before
    assert len(index) == 0


def test_a_whole_number_that_a_float_cannot_hold_is_refused(index):
    index.upsert([Document("a", "word1", "", {"size": 0.5})], encode=encode)
    for documents in ([{"size": 2**53 + 1}], [{"weight": 0.5}, {"weight": 2**53 + 1}]):
        with pytest.raises(CollectionError, match="is int here and double in the index"):
            through_upsert(index, documents, None)
    index.upsert([Document("b", "word1", "", {"size": 2**53})], encode=encode)
    assert metadata_of(index, "size") == {"a": 0.5, "b": 2.0**53}


def test_an_empty_id_and_a_control_character_in_a_collections_name_are_refused(index):
    with pytest.raises(CollectionError, match="the id is empty"):
        index.upsert([Document("", "word1")], encode=encode)
    with pytest.raises(CollectionError, match="holds a control character"):
        index.upsert([Document("a", "word1")], collection="x\x1fy", encode=encode)
    assert len(index) == 0


def test_a_build_that_fails_before_anything_is_recorded_adds_no_column(index, tmp_path):
    before = columns(index)
    path = write_jsonl(tmp_path / "docs.jsonl", [{"_id": "1", "text": "word1", "colour": "red"}, "{broken\n"])
    with pytest.raises(CollectionError, match="line 2"):
        index.add(path)
    assert columns(index) == before


# -- the same id -----------------------------------------------------------------------------------


def test_an_id_twice_in_one_call_is_refused(index):
    twice = [Document("a", "word1"), Document("b", "word2"), Document("a", "word3")]
    with pytest.raises(CollectionError, match="Document 3: document 1 has the id 'a' too"):
        index.upsert(twice, encode=encode)
    with pytest.raises(CollectionError, match="Document 3: the id 'a' is on line 1 too"):
        index.add(twice)
    assert len(index) == 0


def write_same(uri, round_number, own):
    """Documents that every writer writes, and one of its own."""
    other = Index.open(uri)
    same = [Document(f"r{round_number}-{k}", f"by {own}") for k in range(20)]
    return other.upsert([*same, Document(f"r{round_number}-own-{own}", "word1")], encode=encode)


def check_one_row_each(index, rounds, writers):
    ids = lance.dataset(f"{index.uri}/documents.lance").to_table(columns=["id"])["id"].to_pylist()
    assert len(ids) == len(set(ids)) == rounds * (20 + writers)


def test_threads_that_add_the_same_new_ids_leave_one_row_each(index):
    with ThreadPoolExecutor(4) as pool:
        for number in range(5):
            assert list(pool.map(lambda own, n=number: write_same(index.uri, n, own), range(4))) == [21] * 4
    check_one_row_each(index, 5, 4)


def test_without_a_lock_as_on_an_object_store_they_leave_one_row_each_too(index, monkeypatch):
    monkeypatch.setattr(commit_module, "local_folder", lambda uri: None)
    barrier = threading.Barrier(4)
    real = lance.LanceDataset.commit

    def commit(dataset, transaction, *arguments, **options):
        if transaction.operation.new_fragments and barrier.n_waiting < 4:
            barrier.wait(30)  # all have looked for rows to replace before one commits
        return real(dataset, transaction, *arguments, **options)

    with ThreadPoolExecutor(4) as pool, monkeypatch.context() as patch:
        patch.setattr(lance.LanceDataset, "commit", commit)
        for number in range(3):
            assert list(pool.map(lambda own, n=number: write_same(index.uri, n, own), range(4))) == [21] * 4
    check_one_row_each(index, 3, 4)


PROCESS = """
import sys
import numpy as np
from routerretriever.data.document import Document
from routerretriever.index.index import Index
index = Index.open(sys.argv[1])
sys.stdin.readline()
for number in range(5):
    same = [Document(f"r{number}-{k}", f"by {sys.argv[2]}") for k in range(20)]
    own = Document(f"r{number}-own-{sys.argv[2]}", "word1")
    index.upsert([*same, own], encode=lambda texts: np.ones((len(texts), 32), np.float32))
"""


def test_processes_that_add_the_same_new_ids_leave_one_row_each(index):
    command = [sys.executable, "-c", PROCESS, index.uri]
    writers = [subprocess.Popen([*command, str(own)], stdin=subprocess.PIPE, text=True) for own in range(2)]
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    check_one_row_each(index, 5, 2)


@pytest.mark.parametrize("patient", [True, False])
def test_a_build_and_an_upsert_of_the_same_new_id_leave_one_row(index, tmp_path, monkeypatch, patient):
    """The upsert comes after the build has looked for rows to replace."""
    monkeypatch.setattr(build_module, "_PATIENT_ATTEMPTS", 3 if patient else 0)
    other, looked, real = Index.open(index.uri), [], build_module.rows_to_replace

    def rows_to_replace(*arguments, **options):
        found = real(*arguments, **options)
        if not looked:
            other.upsert(
                [Document("d0", "upserted"), Document("u", "upserted")], collection="docs", encode=encode
            )
        looked.append(found)
        return found

    monkeypatch.setattr(build_module, "rows_to_replace", rows_to_replace)
    index.add(write_jsonl(tmp_path / "docs.jsonl", [{"_id": f"d{k}", "text": "built"} for k in range(3)]))
    texts = {name: text for name, (text, _) in stored(index).items()}
    assert texts == {"d0": "built", "d1": "built", "d2": "built", "u": "upserted"}
    assert len(looked) == (2 if patient else 1)


def test_what_the_first_version_wrote_twice_is_healed_by_the_next_write(index):
    index.upsert([Document("a", "one")], encode=encode)
    dataset = lance.dataset(f"{index.uri}/documents.lance")
    lance.write_dataset(dataset.to_table(), dataset.uri, mode="append")
    assert len(index) == 2
    index.upsert([Document("a", "two")], encode=encode)
    assert {name: text for name, (text, _) in stored(index).items()} == {"a": "two"}
