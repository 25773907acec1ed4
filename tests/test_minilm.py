"""Real weights, real MTEB, the demo's own collections."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mteb_task import retrieval_task
from sentence_transformers import SentenceTransformer

from routerretriever import Collection, Index, RouterRetriever, TrainingConfig, evaluate, train_expert
from routerretriever.documents import encode_documents

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
from make_collections import UNSEEN, write_all


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Two experts of the demo, trained for a short while."""
    import os

    root = tmp_path_factory.mktemp("demo")
    os.environ["ROUTERRETRIEVER_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    torch.set_num_threads(2)
    collections = {name: Collection.load(path) for name, path in write_all(root).items()}
    model = RouterRetriever.create(device="cpu")
    for name in ("notam", "ops"):
        train_expert(model, collections[name], config=TrainingConfig(epochs=2, evaluations=1))
    model.build_library([collections["notam"], collections["ops"]])
    model.save_pretrained(root / "model")
    return root / "model", model, collections


def test_demo_collections_are_sound(demo):
    _, _, collections = demo
    for name, collection in collections.items():
        assert ("train" in collection.splits) == (name not in UNSEEN)
        if name in UNSEEN:
            continue
        train, test = collection.split("train"), collection.split("test")
        asked = {document for grades in train.qrels.values() for document in grades}
        assert not asked & {document for grades in test.qrels.values() for document in grades}
        assert not set(train.queries.values()) & set(test.queries.values())


def test_base_is_the_published_model(demo):
    _, model, _ = demo
    assert model.encoder.base.id == "sentence-transformers/all-MiniLM-L6-v2"
    assert model.encoder.dimension == 384
    assert (model.encoder.branch_layer, model.encoder.num_layers) == (3, 6)


def test_routing_pays_and_leaves_strangers_alone(demo):
    _, model, collections = demo
    result = evaluate(model, [collections[name] for name in ("notam", "ops", "garden")])
    notam, ops, garden = result.collections
    for seen in (notam, ops):
        assert seen.systems["routed"].mean() > seen.systems["base"].mean() + 0.3
        assert seen.systems["routed"].mean() > 0.95 * seen.systems["dataset_oracle"].mean()
    assert garden.systems["routed"].mean() >= garden.systems["base"].mean() - 0.01


def test_search_finds_what_the_shorthand_means(demo, tmp_path):
    _, model, collections = demo
    index = Index.create(tmp_path / "index", model)
    for name in ("notam", "ops", "garden"):
        index.upsert(collections[name].documents, collection=name)
    query_id, text = next(iter(collections["ops"].split("test").queries.items()))
    (wanted,) = collections["ops"].split("test").qrels[query_id]
    assert wanted in [hit.id for hit in index.search(text, k=10)]


def test_document_vectors_do_not_depend_on_the_number_of_threads(tmp_path):
    """Workers of a cluster have one thread each, a single process has as many as the machine has cores."""
    texts = [text for path in write_all(tmp_path).values() for text in Collection.load(path).contents]
    rng = np.random.default_rng(0)
    short = [texts[row] for row in rng.permutation(len(texts))[:200]]
    long = [" ".join(rng.choice(texts, size)) for size in rng.integers(2, 14, 40)]
    model, before = RouterRetriever.create(device="cpu"), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(encode_documents(model, short + long))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


@pytest.mark.filterwarnings("ignore")  # mteb still calls names that the libraries below it deprecate
def test_mteb_evaluates_it_without_a_wrapper(demo, tmp_path):
    import mteb

    path, model, collections = demo
    collection = collections["notam"]

    loaded = SentenceTransformer(str(path), trust_remote_code=True, device="cpu")
    ours = evaluate(model, [collection]).mean("routed")
    for candidate in (loaded, model):
        result = mteb.evaluate(
            candidate,
            retrieval_task(collection, "NotamRetrieval"),
            cache=None,
            overwrite_strategy="always",
            show_progress_bar=False,
        )
        score = result.task_results[0].get_score()
        assert score == pytest.approx(ours, abs=1e-3)


def test_queries_cost_one_forward_pass_of_the_base(demo):
    """Multiplications counted by torch itself, not by a clock."""
    from torch.utils.flop_counter import FlopCounterMode

    path, _, collections = demo
    texts = list(collections["notam"].split("test").queries.values())[:32]
    plain = SentenceTransformer(str(path), trust_remote_code=True, device="cpu")
    counts = {}
    for name, arguments in (("base", {"expert": "base"}), ("routed", {})):
        features = plain.preprocess(texts)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            plain[0](features, task="query", **arguments)
        counts[name] = counter.get_total_flops()
    assert counts["routed"] < 1.05 * counts["base"]
    assert np.isfinite(counts["routed"])
