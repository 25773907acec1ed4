"""One search that says what encoded each query."""

import logging

import numpy as np
import pytest

from routerretriever import Index, RouterRetriever, SearchParameters
from routerretriever.data.document import Document
from routerretriever.errors import ExpertError, QueryError, VectorIndexError

QUERIES = ["word100 word100 word60", "word3"]


@pytest.fixture(scope="module")
def index(built, tmp_path_factory):
    model = RouterRetriever.from_pretrained(built / "model", device="cpu")
    made = Index.create(tmp_path_factory.mktemp("answers") / "index", model)
    made.upsert([Document(f"d{number}", f"word{number}") for number in range(100)], collection="c")
    return made


@pytest.mark.parametrize("mode", ["vector", "hybrid"])
@pytest.mark.parametrize("expert", [None, "routed", "base", "beta"])
def test_it_finds_what_a_search_finds_and_says_what_encoded_the_query(index, mode, expert):
    answers = index.answer(QUERIES, 5, expert=expert, mode=mode)
    for query, found in zip(QUERIES, answers, strict=True):
        hits = index.search(query, 5, expert=expert, mode=mode)
        assert [hit.id for hit in found.hits] == [hit.id for hit in hits]
        np.testing.assert_allclose([hit.score for hit in found.hits], [hit.score for hit in hits], atol=1e-5)
        routed = index.model.route(query)[0].expert
        assert found.expert == (routed if expert in (None, "routed") else expert)


def test_words_alone_need_no_expert(index):
    (found,) = index.answer(["word3"], mode="text")
    assert found.expert is None and [hit.id for hit in found.hits] == ["d3"]


@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
def test_an_expert_that_does_not_exist_is_refused_in_every_mode(index, mode):
    with pytest.raises(ExpertError, match="nobody"):
        index.answer(QUERIES, expert="nobody", mode=mode)


@pytest.mark.parametrize("query", ["", " \n"])
def test_an_empty_query_is_refused(index, query):
    with pytest.raises(QueryError, match="empty"):
        index.answer(["word1", query])


@pytest.mark.parametrize("mode", ["vector", "text"])
@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ("word1", "Give a list"),
        ([None], "not None"),
        ([["word1"]], "A query is a text"),
        (["\ud800 a"], "half of"),
    ],
)
def test_what_is_no_query_is_refused(index, queries, message, mode):
    with pytest.raises(QueryError, match=message):
        index.answer(queries, mode=mode)
    with pytest.raises(QueryError):
        index.model.route(["word1", "\ud800"])


@pytest.mark.parametrize("k", [0, 2.0, "2", True, None])
def test_a_number_of_results_is_a_whole_number(index, k):
    with pytest.raises(VectorIndexError, match="k must be at least 1, and a whole number"):
        index.search("word1", k)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nprobes": 2.5}, "nprobes must be at least 1, and a whole number"),
        ({"refine": "5"}, "refine must be at least 0, and a whole number"),
        ({"ef": True}, "ef must be at least 1, and a whole number"),
        ({"vector_weight": "1"}, "vector_weight must be within"),
        ({"vector_weight": float("nan")}, "vector_weight must be within"),
    ],
)
def test_parameters_of_a_wrong_type_are_named(settings, message):
    with pytest.raises(VectorIndexError, match=message):
        SearchParameters(**settings)


def test_words_and_vectors_are_the_default(index):
    (found,) = index.answer(QUERIES[:1], 5)
    assert found.mode == "hybrid" and 0.5 < found.vector_weight < 1.0
    assert found.hits == index.search(QUERIES[0], 5, mode="hybrid") == index.search(QUERIES[0], 5)


def test_without_a_text_index_vectors_are_searched_and_it_is_said_once(index, tmp_path, caplog):
    plain = Index.create(tmp_path / "plain", index.model)
    plain.upsert([Document("d1", "word1")])
    plain.drop_text_index()
    plain.upsert([Document("d2", "word2")])
    with caplog.at_level(logging.WARNING):
        (found,) = plain.answer(["word1"])
        plain.search("word2")
    assert found.mode == "vector" and found.vector_weight is None and len(found.hits) == 2
    (record,) = caplog.records
    assert "searched by vectors alone" in record.getMessage() and "--text" in record.getMessage()
