"""Documents longer than the base reads are found by their best passage."""

import json

import lance
import numpy as np
import pytest

from routerretriever import Document, Index
from routerretriever.index import table as tables
from routerretriever.index.build.settings import BuildSettings
from routerretriever.index.schema import PLACE_COLUMNS

FILLER = " ".join(f"word{n % 40}" for n in range(60))


def long(k, word="zap"):
    """A document whose last passage is about a word that its beginning does not have."""
    return Document(f"long{k}", f"{FILLER}. {FILLER}. {word} {word} {word}.", "", {"size": 3})


def short(k):
    return Document(f"short{k}", f"word{50 + k} word{60 + k}", "", {"size": 1})


@pytest.fixture
def mixed(index):
    index.upsert([long(0), *[short(k) for k in range(12)], long(1, "lamp")], collection="c")
    return index


def test_documents_are_counted_as_such(mixed):
    found = mixed.describe()
    assert (len(mixed), found.documents, found.collections) == (14, 14, {"c": 14})
    assert found.passages == 12 + 2 * 3


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_a_document_is_found_once_by_its_best_passage(mixed, mode):
    hits = mixed.search("zap", k=14, mode=mode)
    assert len({hit.id for hit in hits}) == len(hits)
    assert len(hits) == (1 if mode == "text" else 14)
    best = {hit.id: hit for hit in hits}["long0"]
    if mode != "vector":  # random weights see nothing in a word
        assert (best.passage.number, best.text.count("zap")) == (2, 3)
    assert long(0).text[best.passage.start : best.passage.stop] == best.text


def test_scores_are_those_of_the_best_passage(mixed, model):
    passages = mixed.search("word3 word4", k=100, mode="vector", passages=True)
    best = {}
    for hit in passages:
        best.setdefault(hit.id, hit)
    assert len(passages) == 18
    assert mixed.search("word3 word4", k=100, mode="vector") == list(best.values())
    vectors = mixed.search_vectors(model.encode_query(["word3 word4"]), k=5)[0]
    assert [hit.id for hit in vectors] == list(best)[:5]


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_enough_documents_are_found_behind_many_passages_of_one(index, mode):
    wide = Document("wide", " ".join(["word1 word2"] * 3000))
    index.upsert([wide, *[short(k) for k in range(12)]])
    hits = index.search("word1 word2", k=10, mode=mode)
    assert (len(hits), len({hit.id for hit in hits})) == (10, 10)
    assert len(index.search("word1 word2", k=50, mode=mode)) == 13
    assert len(index.search("word1", k=10, mode=mode, where="id = 'wide'")) == 1


def test_where_documents_are_short_nothing_differs_from_an_index_of_one_row_a_document(
    model, tmp_path, monkeypatch
):
    documents = [short(k) for k in range(30)]
    Index.create(tmp_path / "new", model).upsert(documents)
    monkeypatch.setattr(tables, "INDEX_FORMAT", 2)
    monkeypatch.setattr(tables, "table_schema", without_places(tables.table_schema))
    Index.create(tmp_path / "old", model).upsert(documents)
    monkeypatch.undo()
    old, new = (Index.open(tmp_path / name, model) for name in ("old", "new"))
    for mode in ("hybrid", "vector", "text"):
        assert old.search("word55 word70", k=20, mode=mode) == new.search("word55 word70", k=20, mode=mode)

    old.upsert([long(0)])  # stays one row, as in the version that made the index
    old.add([*documents, long(1)])
    assert (len(old), old.describe().passages) == (62, 62)
    assert old.search("zap", k=1, mode="text")[0].passage is None


def without_places(schema):
    def plain(dimension, info):
        made = schema(dimension, info)
        for name in PLACE_COLUMNS:
            made = made.remove(made.get_field_index(name))
        return made

    return plain


def rows(index, document):
    table = lance.dataset(f"{index.uri}/documents.lance").to_table(filter=f"id = '{document}'")
    return sorted(table["_passage"].to_pylist(), key=lambda number: number or 0)


def test_a_new_version_of_a_document_replaces_all_its_passages(mixed):
    assert rows(mixed, "long0") == [0, 1, 2]
    mixed.upsert([Document("long0", "word7")], collection="c")
    assert rows(mixed, "long0") == [None]
    mixed.upsert([long(0, "tide")], collection="c")
    assert rows(mixed, "long0") == [0, 1, 2]
    assert len(mixed) == 14
    assert mixed.delete(["long0", "long1", "none"], collection="c") == 2
    assert (rows(mixed, "long0"), mixed.describe().passages) == ([], 12)


def test_a_build_adds_replaces_and_prunes_documents_with_their_passages(index):
    first = index.add([long(0), long(1), short(1)], collection="c")
    assert (first.documents, first.encoded, len(index)) == (3, 3, 3)
    again = index.add([long(0), long(1), short(1)], collection="c")
    assert (again.unchanged, again.replaced) == (3, 0)
    changed = index.add([long(0, "tide"), short(1)], collection="c")
    assert (changed.encoded, changed.replaced, changed.gone) == (1, 1, 1)
    assert index.search("tide", k=1, mode="text")[0].passage.number == 2
    pruned = index.add([short(1)], collection="c", settings=BuildSettings(prune=True))
    assert (pruned.gone, len(index), index.describe().passages) == (2, 1, 1)


def test_filters_relevance_and_reranking_are_of_documents(mixed):
    assert {hit.id for hit in mixed.search("zap", k=9, where={"size": 3})} == {"long0", "long1"}

    class Longest:
        def probabilities(self, pairs):
            return np.array([len(text) / 1000 for _, text in pairs], np.float32)

    hits = mixed.search("zap", k=3, rerank=Longest())
    assert len({hit.id for hit in hits}) == 3
    assert hits[0].id.startswith("long")


def test_hits_are_plain_data(mixed):
    hit = mixed.search("zap", k=1, mode="text")[0]
    data = json.loads(json.dumps(hit.to_dict()))
    assert data["passage"] == {
        "number": 2,
        "start": hit.passage.start,
        "stop": hit.passage.stop,
        "heading": "",
        "page": None,
    }


def test_vectors_made_elsewhere_are_asked_for_each_passage(index, tmp_path):
    asked = []

    def encode(texts):
        asked.extend(texts)
        return np.ones((len(texts), 32), np.float32)

    index.upsert([long(0), short(0)], encode=encode)
    assert asked == index.texts_to_encode([long(0), short(0)])
    assert len(asked) == 4
    Index.open(index.uri).upsert([long(1)], encode=encode)  # there is no model that could cut it
    assert len(asked) == 5


def test_an_export_has_the_documents_as_they_were_written(mixed, model, tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTERRETRIEVER_CACHE", str(tmp_path / "cache"))
    assert mixed.export(tmp_path / "out", model=model) == 14
    lines = [json.loads(line) for line in (tmp_path / "out" / "corpus.jsonl").read_text().splitlines()]
    written = {line["_id"]: (line["text"], line["metadata"]) for line in lines}
    documents = [long(0), long(1, "lamp"), *[short(k) for k in range(12)]]
    assert written == {document.id: (document.text, dict(document.metadata)) for document in documents}
