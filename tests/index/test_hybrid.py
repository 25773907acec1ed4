"""Words beside vectors."""

import numpy as np
import pytest

from routerretriever import Index, RouterRetriever
from routerretriever.data.document import Document
from routerretriever.errors import VectorIndexError
from routerretriever.index.fusion import BASE_WEIGHT, EXPERT_WEIGHT, fuse
from routerretriever.index.search import SearchParameters

AWKWARD = [
    "",
    "   ",
    '"',
    "!!! ?? ...",
    'a:b ( "x \\ * ? ~ ^',
    "AND OR NOT",
    "the of and",
    "'; --",
    "+word3 -",
    "\x00",
    "x" * 5000,
]


@pytest.fixture(scope="module")
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


def documents(n=60, start=0):
    return [
        Document(f"d{k}", f"word{k} word{(k * 7) % 200}", f"title{k % 3}", {"year": 1990 + k % 10})
        for k in range(start, start + n)
    ]


@pytest.fixture
def index(model, tmp_path):
    index = Index.create(tmp_path / "index", model)
    index.upsert(documents(), collection="c")
    index.build_text_index()
    return index


def test_fusion_is_the_convex_combination():
    fused = dict(fuse({"a": 0.9, "b": 0.5}, {"b": 8.0, "c": 4.0}, weight=0.75, floor=-1.0))
    assert fused == pytest.approx({"a": 0.75, "b": 0.75 * 1.5 / 1.9 + 0.25, "c": 0.125})
    assert [key for key, _ in fuse({"a": 3.0, "b": 2.0, "c": 1.0}, {}, weight=0.5)] == ["a", "b", "c"]
    assert dict(fuse({"a": 3.0, "b": 1.0}, {}, weight=0.5)) == pytest.approx(
        {"a": 0.5, "b": 0.0}
    )  # no least score
    assert fuse({}, {}, weight=0.5) == []
    assert fuse({}, {"x": 2.0}, weight=0.75) == [("x", 0.25)]
    assert fuse({"x": -1.0}, {"x": 0.0}, weight=0.5, floor=-1.0) == [
        ("x", 1.0)
    ]  # all the same is no division by zero


def test_the_weight_decides():
    vector, text = {"a": 0.9, "b": 0.1}, {"b": 9.0, "a": 1.0}
    assert fuse(vector, text, weight=1.0, floor=-1.0)[0][0] == "a"
    assert fuse(vector, text, weight=0.0, floor=-1.0)[0][0] == "b"


def test_words_are_found_in_title_and_text(index):
    hits = index.search("word13", mode="text")
    assert hits[0].id == "d13"
    assert hits[0].score > 0
    assert all("word13" in hit.text for hit in hits)
    assert {hit.id for hit in index.search("title1", 60, mode="text")} == {f"d{k}" for k in range(1, 60, 3)}
    assert index.search("nothing like it", mode="text") == []


def test_words_need_no_model(index):
    index._table.info = index._table.info | {"model": "/gone"}
    index._model = None
    assert index.search("word13", mode="text")[0].id == "d13"


def test_hybrid_fuses_the_exact_similarities_with_bm25(index, model):
    query = "word13 word20"
    vectors = model.encode_document([d.content for d in documents()])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vector = model.encode_query([query])[0]
    scores = dict(
        zip([d.id for d in documents()], (vectors @ (vector / np.linalg.norm(vector))).tolist(), strict=True)
    )
    words = {hit.id: hit.score for hit in index.search(query, 100, mode="text")}
    wanted = fuse(scores, words, weight=BASE_WEIGHT, floor=-1.0)
    hits = index.search(query, 10, mode="hybrid")
    assert [hit.id for hit in hits] == [key for key, _ in wanted[:10]]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in wanted[:10]], atol=1e-4)


def test_the_weight_is_a_parameter(index):
    query = "word13 word20"

    def ranked(weight):
        found = index.search(query, 60, mode="hybrid", parameters=SearchParameters(vector_weight=weight))
        return [hit.id for hit in found]

    assert ranked(1.0) == [hit.id for hit in index.search(query, 60)]
    words = [hit.id for hit in index.search(query, 60, mode="text")]
    assert set(ranked(0.0)[: len(words)]) == set(words)  # two of them have the same score
    with pytest.raises(VectorIndexError, match="within 0..1"):
        SearchParameters(vector_weight=2.0)


def test_words_weigh_more_where_the_base_encoded_the_query(index):
    query, vector = "word13 word20", index.model.encode_query(["word13 word20"])

    def scores(**given):
        weight = given.pop("weight", None)
        parameters = SearchParameters(vector_weight=weight)
        found = index.search_many([query], 60, mode="hybrid", parameters=parameters, **given)[0]
        return {hit.id: hit.score for hit in found}

    base = scores(weight=BASE_WEIGHT)
    assert scores() == scores(vectors=vector) == scores(vectors=vector, experts=["base"]) == base
    assert scores(vectors=vector, experts=["law"]) == scores(weight=EXPERT_WEIGHT) != base


def test_a_text_candidate_far_from_the_query_has_its_true_similarity(index, monkeypatch):
    from routerretriever.index import search as index_search

    wide = index.search("word13 word20", 3, mode="hybrid")
    monkeypatch.setattr(index_search, "DEPTH", 3)  # most text candidates are not among the nearest now
    assert [hit.id for hit in index.search("word13 word20", 3, mode="hybrid")] == [hit.id for hit in wide]


def test_filters_hold_on_both_sides(index):
    for mode in ("text", "hybrid"):
        hits = index.search("word13 title1", 60, mode=mode, where="year = 1993")
        assert hits
        assert {hit.metadata["year"] for hit in hits} == {1993}
        assert index.search("word13 title1", 60, mode=mode, where={"year": {"gt": 3000}}) == []
        with pytest.raises(VectorIndexError, match="No field named colour"):
            index.search("word13", mode=mode, where="colour = 'red'")


@pytest.mark.parametrize("query", AWKWARD)
def test_no_query_is_an_error(index, query):
    assert isinstance(index.search(query, mode="text"), list)
    vector = index.model.encode_query(["word1"])
    assert len(index.search_many([query], 5, vectors=vector, mode="hybrid")[0]) == 5


def test_without_words_hybrid_is_the_order_of_the_vectors(index):
    vector = index.model.encode_query(["word3"])
    hybrid = index.search_many(["the of and"], 10, vectors=vector, mode="hybrid")[0]
    assert [hit.id for hit in hybrid] == [hit.id for hit in index.search_vectors(vector, 10)[0]]


def test_what_is_written_later_is_found(index):
    index.upsert([Document("late", "zebra word1"), Document("d13", "giraffe")], collection="c")
    assert [hit.id for hit in index.search("zebra", mode="text")] == ["late"]
    assert index.search("giraffe", mode="text")[0].id == "d13"
    assert "d13" not in {hit.id for hit in index.search("word13", 60, mode="text")}
    assert index.refresh().texts == 2
    assert [hit.id for hit in index.search("zebra", mode="text")] == ["late"]
    index.delete(["late"], collection="c")
    assert index.search("zebra", mode="text") == []


def test_without_a_text_index_it_is_said_what_to_do(model, tmp_path):
    index = Index.create(tmp_path / "index", model)
    index.upsert(documents(5))
    for mode in ("text", "hybrid"):
        with pytest.raises(VectorIndexError, match="no text index yet.*index build INDEX --text"):
            index.search("word1", mode=mode)
    with pytest.raises(VectorIndexError, match="no search mode 'words'.*hybrid"):
        index.search("word1", mode="words")


def test_an_empty_index_can_have_one(model, tmp_path):
    index = Index.create(tmp_path / "index", model)
    index.build_text_index()
    assert index.search("word1", mode="text") == index.search("word1", mode="hybrid") == []
    index.upsert(documents(5))
    assert index.search("word1", mode="text")[0].id == "d1"


def test_dot_products_have_no_least_value(checkpoint, tmp_path):
    model = RouterRetriever.create(str(checkpoint), similarity="dot", device="cpu")
    index = Index.create(tmp_path / "dot", model)
    index.upsert(documents(20))
    index.build_text_index()
    hits = index.search("word13", 20, mode="hybrid")
    assert len(hits) == 20
    assert all(0.0 <= hit.score <= 1.0 + 1e-6 for hit in hits)
