"""Documents longer than the base reads are evaluated by their best passage, as an index searches them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from routerretriever import Collection, Document, Index, RouterRetriever, evaluate
from routerretriever.cli.common import load_collections
from routerretriever.data.splits import Split
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.evaluation.hybrid_runs import HybridRanker, words_of
from routerretriever.evaluation.report import report_content, write_report
from routerretriever.evaluation.runs import search_run
from routerretriever.index.querying import encode_queries
from routerretriever.kernels.exact_search import top_k
from routerretriever.words.weights import DEFAULT_WEIGHT

FILLER = " ".join(f"word{n % 40}" for n in range(60))


def long(number):
    """A document of three passages, the last of which is about something of its own."""
    own = f"word{50 + number % 50} word{100 + number % 47} zap"
    return Document(f"long{number}", f"{FILLER}. {FILLER}. {own} {own}.")


@pytest.fixture(scope="module")
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


@pytest.fixture(scope="module")
def collection():
    documents = [long(n) for n in range(150)]
    documents += [Document(f"short{n}", f"word{n} word{n + 7}") for n in range(60)]
    queries = {f"q{n}": f"word{50 + n} word{100 + n}" for n in range(12)}
    split = Split("test", queries, {f"q{n}": {f"long{n}": 1} for n in range(12)})
    return Collection(name="long", documents=tuple(documents), splits={"test": split})


@pytest.fixture(scope="module")
def documents(model, collection):
    return model.embed_collection(collection)


@pytest.fixture(scope="module")
def index(model, collection, tmp_path_factory):
    index = Index.create(tmp_path_factory.mktemp("long") / "index", model)
    index.upsert(collection.documents)
    return index


def test_passages_are_those_of_the_index(documents, collection, index):
    counts = documents.counts
    assert (counts.documents, counts.in_passages, counts.cut_off) == (210, 150, 0)
    assert counts.passages == index.describe().passages == 60 + 3 * 150
    assert str(counts) == "210 documents, 150 of them cut into 450 passages"
    assert [documents.passages[row].place.number for row in documents.passages_of(1)] == [0, 1, 2]
    assert list(documents.passages_of(209)) == [509]


def test_the_best_passage_is_the_highest_product(documents, model):
    queries = model.encode_query(["word3 word4", "zap"], expert="base")
    found = top_k(queries, documents.vectors, 300, "dot", documents.groups)
    product = queries @ documents.vectors.T
    best = np.array([[row[list(documents.passages_of(d))].max() for d in range(210)] for row in product])
    assert found.scores.shape == (2, 210)
    np.testing.assert_allclose(found.scores, -np.sort(-best, axis=1), rtol=1e-5)


def test_rankings_by_vectors_are_those_of_the_index(model, collection, documents, index):
    split = collection.split("test")
    vectors = model.encode_query(list(split.queries.values()), expert="base")
    run = search_run(vectors, split, documents, collection, depth=50)
    hits = index.search_many(list(split.queries.values()), k=50, expert="base", mode="vector", exact=True)
    for ranked, found in zip(run.values(), hits, strict=True):
        np.testing.assert_allclose([hit.score for hit in found], list(ranked.values()), atol=1e-5)
        assert [hit.id for hit in found][:20] == list(ranked)[:20]


@pytest.mark.parametrize("neighbours", [True, False])
def test_rankings_by_both_are_those_of_the_index(model, collection, documents, index, neighbours):
    split = collection.split("test")
    encoded = encode_queries(model, list(split.queries.values()), "base")
    plans = [replace(plan, neighbours=neighbours) for plan in encoded.plans]
    words = words_of(collection, split, documents)
    ranker = HybridRanker.of(encoded.vectors, words, split, documents, collection)
    run = ranker.run(DEFAULT_WEIGHT, neighbours, depth=20)
    answers = index.answer_encoded(replace(encoded, plans=plans), 20, exact=True)
    for query_id, answer in zip(split.queries, answers, strict=True):
        scores = [hit.score for hit in answer.hits]
        np.testing.assert_allclose(scores, list(run[query_id].values()), atol=1e-5)
        assert answer.hits[0].id == next(iter(run[query_id]))


def test_cut_off_collections_are_read_as_far_as_the_base_reads(model, collection, documents):
    cut = model.embed_collection(replace(collection, cut_off=True))
    assert not cut.in_passages
    assert str(cut.counts) == "210 documents, 150 of them cut off after what the base reads"
    np.testing.assert_array_equal(cut.vectors, model.embed_texts(collection.contents))
    whole = model.embed_collection(replace(collection, documents=collection.documents[150:]))
    assert str(whole.counts) == "60 documents, all read whole"
    assert whole.groups is None


def test_reports_say_how_documents_were_read(model, collection, tmp_path):
    cut = replace(collection, name="cut", cut_off=True)
    found = evaluate(model, [collection, cut])
    content = report_content(found)["collections"]
    assert content["long"]["documents"] == {
        "documents": 210,
        "passages": 510,
        "in_passages": 150,
        "cut_off": 0,
    }
    assert content["cut"]["documents"]["cut_off"] == 150
    by_passage, by_beginning = (
        next(part for part in found.collections if part.name == name).systems["hybrid"].mean()
        for name in ("long", "cut")
    )
    assert by_passage > by_beginning  # the beginnings are all the same
    page = write_report(found, tmp_path, title="long")
    sentence = "long: 210 documents, 150 of them cut into 450 passages."
    assert sentence in page.read_text(encoding="utf-8")
    assert sentence in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_option_reaches_the_collections(make_collection, tmp_path):
    folder = make_collection("x")
    assert load_collections([str(folder)], lenient=False, cut_off=True)[0].cut_off
    assert not load_collections([str(folder)], lenient=False)[0].cut_off


def test_documents_encoded_elsewhere_are_whole(collection):
    vectors = np.eye(210, 8, dtype=np.float32)
    found = DocumentVectors.whole(collection.documents, vectors)
    assert (found.groups, len(found.passages), json.dumps(found.counts.to_dict())[:18]) == (
        None,
        210,
        '{"documents": 210,',
    )
