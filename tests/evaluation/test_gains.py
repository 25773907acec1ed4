from dataclasses import replace

import numpy as np
import pytest
from training import QUICK

from routerretriever import Collection, RouterRetriever, train_expert
from routerretriever.data.splits import is_measured_on
from routerretriever.errors import CollectionError, ExpertError, LibraryError
from routerretriever.evaluation.gains import build_library, measure_gains
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.routing.self_check import routing_quality


@pytest.fixture(scope="module")
def trained(checkpoint, tmp_path_factory):
    """Two experts on two collections; built once, never changed by a test."""
    from tiny import collection_maker

    root = tmp_path_factory.mktemp("collections")
    make = collection_maker(root)
    collections = [Collection.load(make(name, shift)) for shift, name in ((1, "x"), (2, "y"))]
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    for collection in collections:
        train_expert(model, collection, config=QUICK)
    model.save_pretrained(root / "model")
    return root / "model", collections


@pytest.fixture
def model(trained):
    return RouterRetriever.from_pretrained(trained[0], device="cpu")


def test_gains_are_measured_on_held_out_queries(model, trained):
    collection = trained[1][0]
    library = model.build_library(trained[1])
    _, held_out = collection.train_and_held_out()
    texts, documents = list(held_out.queries.values()), model.embed_collection(collection)
    assert list(library.examples[: len(texts)]) == texts
    scores = {
        name: ndcg_at_10(model.encode_query(texts, expert=name), held_out, documents, collection)
        for name in ("base", "x", "y")
    }
    for column, name in enumerate(library.experts):
        gains = scores[name] - scores["base"]
        if name == "x":  # these queries chose it
            gains -= model.experts["x"].optimism
        np.testing.assert_allclose(library.gains[: len(texts), column], gains, atol=1e-6)
    info = model.experts["x"]
    assert info.optimism > 0
    assert library.mean_gains()["x"][0] == pytest.approx(info.gain, abs=1e-6)
    assert not set(collection.split("train").queries.values()) & set(texts)


def test_queries_that_chose_an_expert_say_nothing_of_it(model, trained):
    info = replace(model.experts["x"], selection="split")
    model.state = model.state.with_info("x", info)
    library = model.build_library(trained[1])
    of_x = np.array([source == "x" for source in library.sources]) & library.measured
    texts = [text for text, own in zip(library.examples, of_x, strict=True) if own]
    measuring = np.array([is_measured_on(text) for text in texts])
    assert 0 < measuring.sum() < len(texts)
    np.testing.assert_array_equal(np.isfinite(library.gains[of_x, 0]), measuring)
    assert np.isfinite(library.gains[of_x, 1]).all()  # nothing there chose the expert of y
    raw = measure_gains(model, trained[1][0]).gains
    assert library.mean_gains()["x"][0] == pytest.approx(raw[measuring, 0].mean(), abs=1e-6)
    quality = {row.collection: row for row in routing_quality(model.state.policy)}
    assert quality["x"].queries == measuring.sum()
    assert quality["x"].best_gain == pytest.approx(raw[measuring].mean(axis=0).max(), abs=1e-6)
    clusters = build_library(model, [trained[1][0]], pilots_per_collection=5)
    assert (clusters.measured & (np.array(clusters.sources) == "x")).sum() <= 5
    assert np.isfinite(clusters.mean_gains()["x"]).all()


def test_training_queries_are_pilots_without_gains(model, trained, monkeypatch):
    monkeypatch.setattr("routerretriever.evaluation.gains.TRAINING_PILOTS", 7)
    library = model.build_library(trained[1])
    train, _ = trained[1][0].train_and_held_out()
    own = np.array([source == "x" for source in library.sources])
    assert (own & ~library.measured).sum() == 7
    assert {e for e, m, o in zip(library.examples, library.measured, own, strict=True) if o and not m} <= set(
        train.queries.values()
    )
    assert np.isfinite(library.gains[library.measured]).all()
    wanted = library.gains[own & library.measured].mean(axis=0)
    np.testing.assert_allclose(library.mean_gains()["x"], wanted, atol=1e-6)
    assert library.unmeasured() == {}
    assert model.build_library(trained[1], router="pilot-mean").measured.all()


def test_queries_go_to_their_expert(model, trained):
    model.build_library(trained[1])
    for collection in trained[1]:
        chosen = [route.expert for route in model.route(list(collection.split("test").queries.values()))]
        assert set(chosen) <= {"base", "merged", "x", "y"}
        assert model.library.mean_gains()[collection.name].argmax() == list(model.experts).index(
            collection.name
        )


def test_the_short_way_to_a_vector_gives_what_sentence_transformers_gives(model, trained):
    texts = list(trained[1][0].split("test").queries.values())[:20]
    for routed in (False, True):
        if routed:
            model.build_library(trained[1])
        for inputs in (texts, texts[:1], texts[0], tuple(texts[:3]), []):
            short = model.encode_query(inputs)
            long = model.encode_query(inputs, normalize_embeddings=False)
            assert (type(short), short.shape) == (type(long), long.shape)
            np.testing.assert_allclose(short, long, atol=1e-5)
    assert np.abs(model.encode_query(texts) - model.encode_query(texts, expert="base")).max() > 1e-3


def test_extending_touches_only_its_own_rows(model, trained):
    first, second = trained[1]
    alone = model.build_library([first])
    both = model.build_library([second])
    rows = len(alone)
    np.testing.assert_array_equal(both.gains[:rows], alone.gains)
    np.testing.assert_array_equal(both.centroids[:rows], alone.centroids)
    again = model.build_library([first])
    assert sorted(again.examples) == sorted(both.examples)


def test_adding_and_removing_an_expert_touches_only_its_column(model, trained):
    library = model.build_library(trained[1])
    adapter = model.state.experts["y"]
    model.add_expert("z", adapter)
    np.testing.assert_array_equal(model.library.gains[:, :2], library.gains)
    assert np.isnan(model.library.gains[:, 2]).all()
    assert model.library.unmeasured() == {"z": ["x", "y"]}
    model.build_library(trained[1])
    measured = library.gains[:, 1].copy()
    measured[np.array(library.sources) == "y"] += model.experts["y"].optimism  # none is known of "z"
    np.testing.assert_allclose(model.library.gains[:, 2], measured, atol=1e-6)
    model.remove_expert("x")
    wanted = np.stack([library.gains[:, 1], measured], 1)
    np.testing.assert_allclose(model.library.gains, wanted, atol=1e-6)
    assert model.encode_query(["word101"]).shape == (1, 32)


def test_replacing_an_expert_forgets_what_was_measured(model, trained):
    model.build_library(trained[1])
    model.add_expert("x", model.state.experts["y"], replace=True)
    assert model.library.unmeasured() == {"x": ["x", "y"]}


def test_another_router_keeps_the_settings_of_the_policy(model, trained):
    model.build_library(trained[1])
    model.set_policy(margin=0.04, mix=2, partial_weight=0.5, abstain=False)
    for router in ("pilot-mean", "gain"):
        model.build_library(trained[1], router=router)
        policy = model.state.policy
        assert policy.router.name == router
        assert (policy.margin, policy.mix, policy.partial_weight, policy.abstain) == (0.04, 2, 0.5, False)


def test_paper_library_has_one_centroid_for_a_collection_and_best_expert(model, trained):
    library = model.build_library(trained[1], router="pilot-mean")
    assert model.state.policy.router.name == "pilot-mean"
    assert len(library) <= 4
    assert library.counts.sum() == sum(len(c.train_and_held_out()[1]) for c in trained[1])
    best = library.gains.argmax(axis=1)
    assert len(set(zip(library.sources, best.tolist(), strict=True))) == len(library)


def test_many_queries_become_clusters(model, trained):
    library = build_library(model, [trained[1][0]], pilots_per_collection=5)
    assert library.measured.sum() == 5
    assert library.counts[library.measured].sum() == len(trained[1][0].train_and_held_out()[1])
    np.testing.assert_allclose(np.linalg.norm(library.centroids, axis=1), 1.0, atol=1e-5)


def test_what_cannot_be_measured_is_refused(model, trained, make_collection, checkpoint):
    with pytest.raises(CollectionError, match="no split 'train'"):
        model.build_library([Collection.load(make_collection("t", with_train=False))])
    with pytest.raises(LibraryError, match="share a name"):
        model.build_library([trained[1][0], trained[1][0]])
    with pytest.raises(LibraryError, match="no router 'x'"):
        model.build_library(trained[1], router="x")
    empty = RouterRetriever.create(str(checkpoint), device="cpu")
    with pytest.raises(LibraryError, match="no experts yet"):
        empty.build_library(trained[1])
    with pytest.raises(LibraryError, match="no pilot library"):
        empty.route("word1")


def test_no_router_sees_test_judgements(model, trained, monkeypatch):
    """Building with scrambled test judgements gives the same library."""
    from dataclasses import replace

    library = model.build_library(trained[1])
    blinded = []
    for collection in trained[1]:
        test = replace(collection.split("test"), qrels={q: {"d0": 1} for q in collection.split("test").qrels})
        blinded.append(replace(collection, splits={**collection.splits, "test": test}))
    again = model.build_library(blinded)
    np.testing.assert_array_equal(library.gains, again.gains)
    assert library.examples == again.examples


@pytest.mark.parametrize("router", ["gain", "pilot-mean", "pilot-max"])
def test_another_column_leaves_the_pilots_as_they_are_prepared(model, trained, router):
    from routerretriever.routing.routers import make_router

    model.build_library(trained[1], router=router)
    before = model.state.policy.router
    model.add_expert("z", model.state.experts["y"])
    model.set_gains("z", {"x": 0.5})
    with pytest.raises(ExpertError, match="no expert 'base'"):
        model.set_gains("base", {"x": 0.5})
    after = model.state.policy.router
    assert after.vectors is before.vectors
    queries = model.route_embeddings(list(trained[1][0].split("test").queries.values()))
    fresh = make_router(router, model.library, **before.settings())
    np.testing.assert_allclose(after.scores(queries), fresh.scores(queries), rtol=1e-5, atol=1e-6)
    assert before.scores(queries).shape[1] + 1 == after.scores(queries).shape[1]
    model.build_library([trained[1][0]])
    assert model.state.policy.router.vectors is not before.vectors


def test_words_and_relevance_are_measured_beside_base_and_best_expert(model, trained, tmp_path):
    library = model.build_library(trained[1])
    measured = library.measured
    assert np.isfinite(library.words.values[measured]).all()
    assert np.isnan(library.words.values[~measured]).all()
    for collection, expert in library.words.experts.items():
        means = library.mean_gains()[collection]
        assert library.experts[int(np.nanargmax(means))] == expert
    assert set(library.relevance.samples) == set(library.collections())

    model.save(str(tmp_path / "model"))
    loaded = RouterRetriever.from_pretrained(tmp_path / "model", device="cpu")
    np.testing.assert_allclose(loaded.library.words.values, library.words.values, atol=1e-3)
    assert loaded.library.relevance.pooled == library.relevance.pooled
    queries = ["word1 word2", "word150 word151"]
    first, second = model.encode_routed(queries), loaded.encode_routed(queries)
    assert first.plans == second.plans
