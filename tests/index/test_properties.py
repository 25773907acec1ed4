"""Whatever documents hold, each door stores it as it is or refuses it by name and stores nothing."""

import json
import math
import shutil
import tempfile
from pathlib import Path

import lance
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import IDS, JSON, SCALARS, TEXT, WILD, tried

from routerretriever import Index, RouterRetriever
from routerretriever.data.collection import Collection
from routerretriever.data.document import Document
from routerretriever.errors import CollectionError
from routerretriever.index.schema import OWN_COLUMNS

NAMES = st.sampled_from(["year", "tags", "half", "é x", "a'b", "_x", "a.b", "and", "text", ""]) | TEXT
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**53 + 1, -(2**63), 2**63, 0.0, -0.0])
FIELDS = st.dictionaries(NAMES, SCALARS | NUMBERS, max_size=4)
DOCUMENTS = st.lists(
    st.builds(Document, IDS, TEXT, TEXT, FIELDS),
    min_size=1,
    max_size=4,
    unique_by=lambda document: document.id,
)
ANY_DOCUMENTS = st.lists(
    st.builds(Document, WILD, WILD, WILD, st.dictionaries(WILD, JSON | NUMBERS, max_size=3)), max_size=3
)


@pytest.fixture(scope="module")
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


@pytest.fixture
def new_index(model):
    """A function that makes an empty index; all are removed afterwards."""
    root = Path(tempfile.mkdtemp())
    yield lambda: Index.create(tempfile.mkdtemp(dir=root) + "/index", model)
    shutil.rmtree(root)


def encode(texts):
    return np.ones((len(texts), 32), np.float32)


def kept(document):
    """What comes back of a document: fields without a value have none."""
    fields = {}
    for name, value in document.metadata.items():
        if value is not None and not (isinstance(value, float) and math.isnan(value)):
            fields[name] = value
    return document.id, document.title, document.text, fields


def stored(index):
    rows = lance.dataset(f"{index.uri}/documents.lance").to_table().to_pylist()
    found = []
    for row in rows:
        fields = {name: value for name, value in row.items() if name not in OWN_COLUMNS and value is not None}
        found.append((row["id"], row["title"] or "", row["text"], fields))
    return sorted(found, key=lambda entry: entry[0])


def written(index, write):
    """What the index holds after a write, or ``None`` if it was refused and nothing changed."""
    before = lance.dataset(f"{index.uri}/documents.lance").schema
    try:
        write()
    except CollectionError:
        assert len(index) == 0
        assert lance.dataset(f"{index.uri}/documents.lance").schema == before
        return None
    return stored(index)


@tried(40)
@given(documents=DOCUMENTS, collection=TEXT)
def test_what_is_stored_comes_back_whichever_door_it_came_through(new_index, model, documents, collection):
    index = new_index()
    found = written(index, lambda: index.upsert(documents, collection=collection, encode=encode))
    if found is None:
        return
    assert found == sorted((kept(document) for document in documents), key=lambda entry: entry[0])

    reopened = Index.open(index.uri, model)
    hits = reopened.search("word1", k=10)
    assert {(hit.id, hit.title, hit.text, hit.collection) for hit in hits} == {
        (document.id, document.title, document.text, collection) for document in documents
    }
    assert reopened.delete([document.id for document in documents], collection=collection) == len(documents)


@tried(8)
@given(documents=DOCUMENTS)
def test_a_file_and_a_call_store_the_same(new_index, documents):
    called, filed = new_index(), new_index()
    found = written(called, lambda: called.upsert(documents, encode=encode))
    path = Path(filed.uri).parent / "documents.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            record = {"_id": document.id, "text": document.text, "title": document.title}
            file.write(json.dumps(record | {"metadata": document.metadata}) + "\n")
    assert written(filed, lambda: filed.add(path, collection="")) == found


@tried(100)
@given(documents=ANY_DOCUMENTS)
def test_anything_else_is_refused_by_an_error_of_ours(new_index, documents):
    index = new_index()
    found = written(index, lambda: index.upsert(documents, encode=encode))
    if found is not None:
        assert found == sorted((kept(document) for document in documents), key=lambda entry: entry[0])


@tried(40)
@given(documents=DOCUMENTS)
def test_a_collection_comes_back_from_its_files(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("beir")
    (folder / "qrels").mkdir()
    documents = [*documents, Document("a judged one", "word1")]
    for name, rows in (("corpus", documents), ("queries", documents[-1:])):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for row in rows:
                record = {"_id": row.id, "text": row.text, "title": row.title, "metadata": dict(row.metadata)}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\na judged one\ta judged one\t1\n")
    try:
        loaded = Collection.load(folder)
    except CollectionError as error:
        assert "64 bits" in str(error)
        return
    assert [kept(document) for document in loaded.documents] == [kept(document) for document in documents]
