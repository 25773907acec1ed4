"""One search that says what encoded each query."""

import numpy as np
import pytest

from routerretriever import Index, RouterRetriever
from routerretriever.data.document import Document
from routerretriever.errors import ExpertError, QueryError
from routerretriever.index.answer import answer

QUERIES = ["word100 word100 word60", "word3"]


@pytest.fixture(scope="module")
def index(built, tmp_path_factory):
    model = RouterRetriever.from_pretrained(built / "model", device="cpu")
    made = Index.create(tmp_path_factory.mktemp("answers") / "index", model)
    made.upsert([Document(f"d{number}", f"word{number}") for number in range(100)], collection="c")
    made.build_text_index()
    return made


@pytest.mark.parametrize("mode", ["vector", "hybrid"])
@pytest.mark.parametrize("expert", [None, "routed", "base", "beta"])
def test_it_finds_what_a_search_finds_and_says_what_encoded_the_query(index, mode, expert):
    answers = answer(index, QUERIES, 5, expert=expert, mode=mode)
    for query, found in zip(QUERIES, answers, strict=True):
        hits = index.search(query, 5, expert=expert, mode=mode)
        assert [hit.id for hit in found.hits] == [hit.id for hit in hits]
        np.testing.assert_allclose([hit.score for hit in found.hits], [hit.score for hit in hits], atol=1e-5)
        routed = index.model.route(query)[0].expert
        assert found.expert == (routed if expert in (None, "routed") else expert)


def test_words_alone_need_no_expert(index):
    (found,) = answer(index, ["word3"], mode="text")
    assert found.expert is None and [hit.id for hit in found.hits] == ["d3"]


@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
def test_an_expert_that_does_not_exist_is_refused_in_every_mode(index, mode):
    with pytest.raises(ExpertError, match="nobody"):
        answer(index, QUERIES, expert="nobody", mode=mode)


@pytest.mark.parametrize("query", ["", " \n"])
def test_an_empty_query_is_refused(index, query):
    with pytest.raises(QueryError, match="empty"):
        answer(index, ["word1", query])
