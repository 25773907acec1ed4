from concurrent.futures import ThreadPoolExecutor

import lance
import numpy as np
import pytest
from tiny import make_checkpoint

from routerretriever import Index, RouterRetriever
from routerretriever.data.document import Document
from routerretriever.errors import (
    CollectionError,
    FingerprintError,
    RouterRetrieverError,
    StorageError,
    VectorIndexError,
)
from routerretriever.index import kinds as index_kinds


def documents(n=50, start=0):
    return [
        Document(
            f"d{k}",
            f"word{k} word{(k * 7) % 200}",
            "",
            {"year": 1990 + k % 10, "lang": "en" if k % 2 else "de"},
        )
        for k in range(start, start + n)
    ]


@pytest.fixture
def index(model, tmp_path):
    index = Index.create(tmp_path / "index", model)
    index.upsert(documents(), collection="c")
    return index


def test_search_is_the_exact_product_with_the_bases_vectors(index, model):
    query = "word3 word5"
    vectors = model.encode_document([d.content for d in documents()])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vector = model.encode_query([query])[0]
    scores = vectors @ (vector / np.linalg.norm(vector))
    hits = index.search(query, k=5, mode="vector")
    assert [hit.id for hit in hits] == [f"d{row}" for row in np.argsort(-scores)[:5]]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:5], atol=1e-5)


def test_dot_product_scores(checkpoint, tmp_path):
    model = RouterRetriever.create(str(checkpoint), similarity="dot", device="cpu")
    index = Index.create(tmp_path / "dot", model)
    index.upsert(documents(10))
    wanted = model.encode_document([d.content for d in documents(10)]) @ model.encode_query(["word3"])[0]
    hits = index.search("word3", k=10, mode="vector")
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(wanted)[::-1], rtol=1e-4)


def test_upsert_replaces_and_collections_may_share_ids(index):
    assert index.upsert([Document("d1", "word150")], collection="c") == 1
    assert len(index) == 50
    index.upsert([Document("d1", "word160")], collection="other")
    assert len(index) == 51
    hits = index.search("word150", k=60)
    assert {hit.text for hit in hits if hit.id == "d1"} == {"word150", "word160"}


def test_two_writers_with_new_fields_at_the_same_time(model, tmp_path):
    Index.create(tmp_path / "index", model)
    writers = [Index.open(tmp_path / "index", model) for _ in range(2)]

    def write(writer, number):
        new = {f"both{number}": number, f"own{number}{writers.index(writer)}": "x"}
        return writer.upsert([Document(f"{number}-{writers.index(writer)}", f"word{number}", "", new)])

    with ThreadPoolExecutor(2) as pool:
        for number in range(8):
            assert list(pool.map(write, writers, [number] * 2)) == [1, 1]
    assert [len(writer) for writer in writers] == [16, 16]
    hits = writers[0].search("word3", k=20, where="both3 = 3 AND own31 = 'x'")
    assert [hit.id for hit in hits] == ["3-1"]


def test_delete(index):
    assert index.delete(["d1", "d2", "nothing", "d'3"], collection="c") == 2
    assert {"d1", "d2"}.isdisjoint(hit.id for hit in index.search("word1", k=60))


@pytest.mark.parametrize("error", [OSError("No space left on device"), RuntimeError("Permission denied")])
def test_a_delete_that_cannot_be_written_is_named(index, monkeypatch, error):
    def delete(dataset, where):
        raise error

    monkeypatch.setattr(lance.LanceDataset, "delete", delete)
    with pytest.raises(StorageError, match=str(error)):
        index.delete(["d1"], collection="c")


def test_filters(index):
    hits = index.search("word3", k=60, where="year = 1993 AND lang = 'en'")
    assert {hit.id for hit in hits} == {"d3", "d13", "d23", "d33", "d43"}
    assert hits[0].metadata == {"year": 1993, "lang": "en"}
    with pytest.raises(VectorIndexError, match="No field named colour"):
        index.search("word3", where="colour = 'red'")
    with pytest.raises(VectorIndexError, match="k must be at least 1"):
        index.search("word3", k=0)


def test_metadata_may_grow_but_not_change_type(index):
    index.upsert([Document("new", "word9", "", {"stars": 5})], collection="c")
    assert index.search("word9", where="stars = 5")[0].id == "new"
    with pytest.raises(CollectionError, match="'year' is str here and int64 in the index"):
        index.upsert([Document("bad", "word9", "", {"year": "long ago"})], collection="c")
    with pytest.raises(CollectionError, match="the index needs the name of the field 'vector' itself"):
        index.upsert([Document("bad", "word9", "", {"vector": "x"})], collection="c")


def test_another_base_is_refused(index, tmp_path):
    path = make_checkpoint(tmp_path / "cls", pooling="cls")
    other = RouterRetriever.create(str(path), device="cpu")
    for attempt in (Index.open, Index.create):
        with pytest.raises(FingerprintError, match="another base encoder"):
            attempt(index.uri, other)


def test_the_model_is_found_again_or_asked_for(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    Index.create(tmp_path / "index", model, model_path=tmp_path / "model").upsert(documents(3))
    assert Index.open(tmp_path / "index").search("word1")[0].id == "d1"
    (tmp_path / "model").rename(tmp_path / "moved")
    with pytest.raises(VectorIndexError, match="--model PATH"):
        Index.open(tmp_path / "index").search("word1")
    assert (
        len(Index.open(tmp_path / "index", RouterRetriever.from_pretrained(tmp_path / "moved", device="cpu")))
        == 3
    )


def test_what_is_not_an_index_is_named(model, tmp_path):
    with pytest.raises(VectorIndexError, match="no index at"):
        Index.open(tmp_path / "nothing")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(VectorIndexError, match="not empty and not an index"):
        Index.create(tmp_path, model)


def test_approximate_only_above_the_limit(model, tmp_path, monkeypatch):
    monkeypatch.setattr(index_kinds, "EXACT_LIMIT", 400)
    monkeypatch.setattr(
        model,
        "embed_texts",
        lambda texts, **_: np.random.default_rng(0).normal(size=(len(texts), 32)).astype(np.float32),
    )
    index = Index.create(tmp_path / "big", model)
    index.upsert(documents(300))
    assert not index.is_approximate
    index.upsert(documents(2000, start=300))
    assert index.is_approximate
    queries = np.random.default_rng(1).normal(size=(20, 32)).astype(np.float32)
    found = index.search_vectors(queries, 10)
    exact = index.search_vectors(queries, 10, exact=True)
    shared = [len({h.id for h in a} & {h.id for h in b}) for a, b in zip(found, exact, strict=True)]
    assert np.mean(shared) > 7  # random vectors are the hardest case
    index.upsert(documents(10, start=5000))
    assert len(index) == 2310
    assert len(index.search_vectors(queries[:1], 10, where="year = 1991")[0]) == 10


def test_adding_experts_does_not_touch_the_index(index, model):
    from tiny import random_adapter

    before = index._store.table.newest().version
    model.add_expert("e", random_adapter(model.encoder.lora_layers, 0))
    hits = index.search("word3", expert="e")
    model.remove_expert("e")
    assert len(hits) == 10
    assert index._store.table.newest().version == before


def test_every_error_is_one_of_ours():
    assert issubclass(VectorIndexError, RouterRetrieverError)


def test_vectors_of_another_length_are_refused(index):
    with pytest.raises(VectorIndexError, match=r"shape \(2, 32\), not \(2, 16\)"):
        index.upsert(documents(2), encode=lambda texts: np.ones((len(texts), 16), np.float32))


def test_an_index_whose_files_are_damaged_is_not_called_somebody_elses(model, tmp_path):
    made = Index.create(tmp_path / "index", model)
    made.upsert([Document("a", "word1")], collection="c")
    for path in (tmp_path / "index" / "documents.lance" / "data").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    for path in (tmp_path / "index" / "documents.lance" / "_versions").glob("*.manifest"):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(StorageError, match="is damaged or cannot be read .*Restore it from a copy"):
        Index.open(tmp_path / "index", model)


def test_a_model_that_was_moved_with_its_index_is_found(model, tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    model.save_pretrained(before / "model")
    Index.create(before / "index", model, model_path=before / "model").upsert(documents(3), collection="c")
    before.rename(after)
    assert [hit.id for hit in Index.open(after / "index").search("word1", k=1)] == ["d1"]
    (after / "model").rename(after / "other")
    with pytest.raises(VectorIndexError, match="no longer at .*Say where it is: --model PATH"):
        Index.open(after / "index").search("word1")
