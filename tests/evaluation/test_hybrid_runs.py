"""Rankings by vectors and words are those that the index finds."""

import numpy as np
import pytest

from routerretriever import Collection, Index, RouterRetriever
from routerretriever.evaluation.hybrid_runs import HybridRanker, words_of
from routerretriever.index.querying import encode_queries
from routerretriever.routing.relevance import FEATURES, HITS
from routerretriever.words.weights import DEFAULT_WEIGHT, WEIGHTS


@pytest.fixture(scope="module")
def searched(checkpoint, tmp_path_factory):
    from tiny import collection_maker

    folder = tmp_path_factory.mktemp("hybrid")
    collection = Collection.load(collection_maker(folder)("x", 1))
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    split = collection.split("test")
    documents = model.embed_collection(collection)
    encoded = encode_queries(model, list(split.queries.values()), None)
    ranker = HybridRanker.of(
        encoded.vectors, words_of(collection, split, documents), split, documents, collection
    )
    index = Index.create(folder / "index", model)
    index.upsert(collection.documents)
    return index, split, ranker, encoded


def test_they_are_what_the_index_finds(searched):
    index, split, ranker, encoded = searched
    run = ranker.run(DEFAULT_WEIGHT, True, depth=10)
    for query_id, found in zip(split.queries, index.answer_encoded(encoded, 10), strict=True):
        scores = list(run[query_id].values())
        np.testing.assert_allclose([hit.score for hit in found.hits], scores, atol=1e-5)
        assert len({hit.id for hit in found.hits} & set(run[query_id])) >= 9  # but for ties at the end


def test_weight_one_is_the_order_of_the_vectors(searched):
    index, split, ranker, encoded = searched
    run = ranker.run(1.0, depth=5)
    for query_id, found in zip(split.queries, index.answer_encoded(encoded, 5, mode="vector"), strict=True):
        assert list(run[query_id]) == [hit.id for hit in found.hits]


def test_gains_are_measured_against_the_vectors_alone(searched):
    _, split, ranker, _ = searched
    gains = ranker.gains()
    assert gains.shape == (len(split), len(WEIGHTS))
    alone = ranker.ndcg_at_10(1.0)
    np.testing.assert_allclose(gains[:, 1], ranker.ndcg_at_10(WEIGHTS[1]) - alone, atol=1e-6)


def test_samples_are_the_hits_with_their_judgements(searched):
    _, split, ranker, _ = searched
    samples = ranker.samples()
    assert samples.shape == (len(split), HITS, FEATURES + 1)
    run = ranker.run(DEFAULT_WEIGHT, depth=HITS)
    for row, (query_id, ranked) in enumerate(run.items()):
        judged = [split.qrels[query_id].get(document, 0) > 0 for document in ranked]
        assert (samples[row, :, -1] > 0).tolist() == judged


def test_a_query_does_not_find_itself_where_the_collection_says_so(searched):
    from dataclasses import replace

    _, split, ranker, _ = searched
    query_id = next(iter(split.queries))
    found = next(iter(ranker.run(DEFAULT_WEIGHT)[query_id]))
    named = replace(
        split,
        queries={found: split.queries[query_id], **dict(list(split.queries.items())[1:])},
        qrels={found: split.qrels[query_id], **dict(list(split.qrels.items())[1:])},
    )
    other = replace(ranker, split=named, own=np.array([ranker.ids.index(found), *ranker.own[1:]]))
    assert found not in other.run(DEFAULT_WEIGHT)[found]
