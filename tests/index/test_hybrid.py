"""Words beside vectors."""

import numpy as np
import pytest

from routerretriever import Index, RouterRetriever
from routerretriever.data.document import Document
from routerretriever.errors import VectorIndexError
from routerretriever.index.parameters import SearchParameters
from routerretriever.index.querying import EncodedQueries
from routerretriever.routing.search_plan import SearchPlan
from routerretriever.words.fuse import best_first, fuse
from routerretriever.words.text_index import TextSettings

AWKWARD = [
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


def documents(n=60, start=0):
    return [
        Document(f"d{k}", f"word{k} word{(k * 7) % 200}", f"title{k % 3}", {"year": 1990 + k % 10})
        for k in range(start, start + n)
    ]


@pytest.fixture
def index(model, tmp_path):
    index = Index.create(tmp_path / "index", model)
    index.upsert(documents(), collection="c")
    return index


def plan(weight):
    return SearchPlan(vector_weight=weight, reason="given")


def hybrid(index, query, k, vector, weight=0.8):
    """Search with a vector and a weight that are given."""
    encoded = EncodedQueries(queries=[query], vectors=vector, experts=["base"], plans=[plan(weight)])
    return index.answer_encoded(encoded, k, mode="hybrid")[0].hits


def test_words_are_found_in_title_and_text(index):
    hits = index.search("word13", mode="text")
    assert hits[0].id == "d13"
    assert hits[0].score > 0
    assert all("word13" in hit.text for hit in hits)
    assert {hit.id for hit in index.search("title1", 60, mode="text")} == {f"d{k}" for k in range(1, 60, 3)}
    assert index.search("nothing like it", mode="text") == []


def test_words_need_no_model(index):
    index._store.table.info = index._store.table.info | {"model": "/gone"}
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
    similarities = np.array(list(scores.values()))
    fused = fuse(similarities, np.array([words.get(key, 0.0) for key in scores]), weight=0.8, lowest=-1.0)
    wanted = best_first(fused, 10)
    hits = hybrid(index, query, 10, vector[None], 0.8)
    assert [hit.id for hit in hits] == [list(scores)[place] for place in wanted]
    np.testing.assert_allclose([hit.score for hit in hits], fused[wanted], atol=1e-4)


def test_the_weight_is_a_parameter(index):
    query = "word13 word20"

    vector = index.model.encode_query([query])
    encoded = EncodedQueries(queries=[query], vectors=vector, experts=["base"], plans=[plan(0.9)])

    def ranked(weight):
        parameters = SearchParameters(vector_weight=weight)
        return [hit.id for hit in index.answer_encoded(encoded, 60, parameters=parameters)[0].hits]

    assert ranked(1.0) == [hit.id for hit in index.search(query, 60, mode="vector")]
    words = [hit.id for hit in index.search(query, 60, mode="text")]
    assert set(ranked(0.0)[: len(words)]) == set(words)  # two of them have the same score
    with pytest.raises(VectorIndexError, match="within 0..1"):
        SearchParameters(vector_weight=2.0)


def test_each_query_has_its_own_weight(index):
    queries = ["word13 word20", "word13 word20"]
    vectors = index.model.encode_query(queries)
    encoded = EncodedQueries(
        queries=queries, vectors=vectors, experts=["base", "base"], plans=[plan(0.9), plan(0.5)]
    )
    first, second = index.answer_encoded(encoded, 10)
    assert (first.vector_weight, second.vector_weight) == (0.9, 0.5)
    assert first.hits == hybrid(index, queries[0], 10, vectors[:1], 0.9) != second.hits


def test_a_text_candidate_far_from_the_query_has_its_true_similarity(index, monkeypatch):
    from routerretriever.index import search as index_search

    vector = index.model.encode_query(["word13 word20"])
    wide = hybrid(index, "word13 word20", 3, vector)
    monkeypatch.setattr(index_search, "DEPTH", 3)  # most text candidates are not among the nearest now
    near = hybrid(index, "word13 word20", 3, vector)
    assert [hit.id for hit in near] == [hit.id for hit in wide]
    np.testing.assert_allclose([hit.score for hit in near], [hit.score for hit in wide], atol=1e-5)


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
    assert len(hybrid(index, query, 5, vector)) == 5


def test_without_words_hybrid_is_the_order_of_the_vectors(index):
    vector = index.model.encode_query(["word3"])
    hits = hybrid(index, "the of and", 10, vector)
    assert [hit.id for hit in hits] == [hit.id for hit in index.search_vectors(vector, 10)[0]]


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
    index.drop_text_index()
    for mode in ("text", "hybrid"):
        with pytest.raises(VectorIndexError, match="no text index.*index build INDEX --text"):
            index.search("word1", mode=mode)
    with pytest.raises(VectorIndexError, match="no search mode 'words'.*hybrid"):
        index.search("word1", mode="words")


def test_a_text_index_is_kept_unless_it_was_dropped(model, tmp_path):
    index = Index.create(tmp_path / "index", model)
    index.upsert(documents(5))
    assert index.describe().text == TextSettings(tokenizer="simple", language="English")
    index.drop_text_index()
    index.upsert(documents(5, start=5))
    assert index.describe().text is None
    built = index.build_text_index(tokenizer="icu", language="german")
    assert (built.tokenizer, built.language) == ("icu", "German")
    index.upsert(documents(5, start=10))
    assert index.describe().text == TextSettings(tokenizer="icu", language="German")
    assert index.search("word12", mode="text")[0].id == "d12"


def test_words_of_a_script_without_spaces_are_found(model, tmp_path):
    index = Index.create(tmp_path / "index", model)
    index.upsert([Document("tokyo", "東京都に住んでいます"), Document("engine", "検索エンジンを作る")])
    assert index.describe().text == TextSettings(tokenizer="icu", language="none")
    assert [hit.id for hit in index.search("検索", mode="text")] == ["engine"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"tokenizer": "words"}, "no tokenizer 'words'.*icu"), ({"language": "Klingon"}, "'Klingon'.*German")],
)
def test_settings_that_do_not_exist_are_named(index, settings, message):
    with pytest.raises(VectorIndexError, match=message):
        index.build_text_index(**settings)


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
    hits = index.search("word13", 20, mode="hybrid")
    assert len(hits) == 20
    assert all(0.0 <= hit.score <= 1.0 + 1e-6 for hit in hits)
