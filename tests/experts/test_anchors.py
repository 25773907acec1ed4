"""Texts that hold an expert to the base."""

from dataclasses import replace

import pytest
from training import QUICK

from routerretriever import Collection, Document, train_expert
from routerretriever.errors import ExpertError
from routerretriever.experts import anchors
from routerretriever.experts.anchors import divided, made_texts
from routerretriever.experts.checkpoint import Checkpoint
from routerretriever.experts.training_config import (
    ANCHOR_WEIGHT,
    ANCHORED_QUERIES,
    PRESETS,
    Preset,
    TrainedKinds,
    TrainingConfig,
)

FREE, ANCHORED = QUICK, replace(QUICK, anchor=10.0)


def trained(model, collection, config, name="expert"):
    report = train_expert(model, collection, name=name, config=config, force=True)
    return report, model.state.experts[name]


def moved(model, texts, expert):
    """How far an expert moves texts: the mean of 1 - cosine."""
    base, own = (model.encode_query(texts, expert=name) for name in ("base", expert))
    return float((1 - (base * own).sum(axis=1)).mean())


@pytest.mark.parametrize("kind", [TrainedKinds.LORA, TrainedKinds.MAP, TrainedKinds.BOTH])
def test_anchors_keep_texts_of_other_documents_where_the_base_has_them(model, collection, kind):
    passages = model.embed_collection(collection).texts
    _, others = divided(passages, anchors.ANCHORS, QUICK.seed)
    asked = list(made_texts(passages, others, anchors.ANCHORS, QUICK.seed))
    config = replace(QUICK, kind=kind, map_learning_rate=0.03)
    far, near = {}, {}
    for name, anchor, found in (("free", 0.0, far), ("anchored", 10.0, near)):
        trained(model, collection, replace(config, anchor=anchor), name)
        found["made"] = moved(model, asked, name)
        found["true"] = moved(model, list(collection.split("test").queries.values()), name)
    assert near["made"] < far["made"] / 2
    assert near["made"] < near["true"] / 2  # it learns its own queries nevertheless


def test_an_anchored_expert_still_gains(model, collection):
    report, _ = trained(model, collection, ANCHORED)
    assert report.info.selection_gain > 0.05


def test_a_resumed_training_draws_the_same_anchors(model, collection, monkeypatch):
    whole, expected = trained(model, collection, replace(ANCHORED, epochs=2))

    class Stopped(Exception):
        pass

    def stop(checkpoint, state):
        save(checkpoint, state)
        raise Stopped

    save = Checkpoint.save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", stop)
        with pytest.raises(Stopped):
            trained(model, collection, replace(ANCHORED, epochs=2))
    resumed, found = trained(model, collection, replace(ANCHORED, epochs=2))
    assert resumed.resumed and not whole.resumed
    assert whole.history == resumed.history
    assert found.fingerprint == expected.fingerprint


def marked(collection, method):
    """The collection with a query that was generated."""
    query_id = next(iter(collection.split("train").queries))
    return replace(collection, generated={query_id: method})


@pytest.mark.parametrize("method", ["crops", "titles"])
def test_queries_of_the_documents_own_words_have_no_anchors(model, collection, method):
    made = marked(collection, method)
    _, free = trained(model, made, replace(FREE, epochs=1))
    _, held = trained(model, made, replace(FREE, epochs=1, anchor=None))
    assert free.fingerprint == held.fingerprint
    with pytest.raises(ExpertError, match=r"'aliases' are crops or titles .* Leave out anchor \(--anchor\)"):
        trained(model, made, ANCHORED)
    trained(model, [made, replace(collection, name="other")], replace(ANCHORED, epochs=1))


def test_queries_of_a_language_model_have_anchors(model, collection):
    made = marked(collection, "llm")
    _, free = trained(model, made, replace(FREE, epochs=1))
    _, held = trained(model, made, replace(ANCHORED, epochs=1))
    assert free.fingerprint != held.fingerprint


def test_a_generalist_has_anchors_of_each_collection(model, make_collection):
    collections = [Collection.load(make_collection(name, shift)) for name, shift in (("x", 1), ("y", 5))]
    for name, config in (("free", FREE), ("anchored", ANCHORED)):
        trained(model, collections, config, name)
    for collection in collections:
        asked = [document.text for document in collection.documents]
        assert moved(model, asked, "anchored") < moved(model, asked, "free") / 2


def test_documents_without_words_give_no_anchors(model, collection):
    empty = tuple(replace(document, text="…", title="") for document in collection.documents)
    without = replace(collection, documents=empty)
    _, free = trained(model, without, replace(FREE, epochs=1))
    _, held = trained(model, without, replace(ANCHORED, epochs=1))
    assert free.fingerprint == held.fingerprint


def test_copies_are_on_one_side_and_the_order_does_not_count():
    passages = [("", f"text number {number % 30}") for number in range(60)]
    anchored, others = divided(passages, 10, seed=1)
    texts = {passages[row] for row in anchored}
    assert len(texts) == 10 and len(anchored) == 20
    assert texts.isdisjoint(passages[row] for row in others)
    backwards, _ = divided(passages[::-1], 10, seed=1)
    assert {passages[::-1][row] for row in backwards} == texts
    assert {passages[row] for row in divided(passages, 10, seed=2)[0]} != texts
    assert len(divided(passages, 512, seed=1)[1]) == 12  # a fifth is always left


def test_texts_are_short_and_of_every_style():
    document = Document("d", "The pump stops when the valve is closed. Open it slowly again!", "Pump faults")
    others = [("", f"The valve number {number} is closed and open.") for number in range(50)]
    passages = [(document.title, document.text), *others]
    made = made_texts(passages, [0], 512, seed=1)
    assert "Pump faults" in made
    assert "Open it slowly again!" in made
    assert any(text in document.text and " " in text for text in made)
    assert any(text.split()[0] == "pump" and text not in document.text.lower() for text in made)
    assert max(len(text.split()) for text in made) <= 8
    assert made == made_texts(passages, [0], 512, seed=1)
    assert set(made.values()) == {0}
    assert len(made_texts(passages, [0], 5, seed=1)) == 5


def test_languages_without_spaces_give_texts_of_a_few_signs():
    text = "東京は日本の首都であり世界最大の都市の一つである。大阪は西日本の中心となる大きな都市である。"
    made = made_texts([("", text)], [0], 512, seed=1)
    assert made
    assert {len(found) for found in made if found in text and "。" not in found} <= set(range(2, 13))


def test_layers_have_anchors_unless_somebody_says_otherwise_and_maps_have_none():
    assert not PRESETS[Preset.PAPER].has_anchors
    for kind in (TrainedKinds.LORA, TrainedKinds.BOTH, TrainedKinds.AUTO):
        config = TrainingConfig(kind=kind)
        assert config.has_anchors and not config.for_map().has_anchors
    assert not TrainingConfig(kind=TrainedKinds.MAP).has_anchors
    assert TrainingConfig(anchor=2.0).for_map().anchor_weight(9) == 2.0
    assert not TrainingConfig(anchor=0.0).has_anchors


def test_anchors_weigh_as_much_in_an_epoch_of_many_queries():
    config = TrainingConfig()
    assert config.anchor_weight(10) == config.anchor_weight(ANCHORED_QUERIES) == ANCHOR_WEIGHT
    assert config.anchor_weight(4 * ANCHORED_QUERIES) == ANCHOR_WEIGHT / 4
    assert TrainingConfig(anchor=3.0).anchor_weight(4 * ANCHORED_QUERIES) == 3.0  # what somebody asks for


def test_a_map_is_trained_without_anchors(model, collection):
    config = replace(FREE, kind=TrainedKinds.MAP, map_epochs=2)
    _, free = trained(model, collection, config)
    _, plain = trained(model, collection, replace(config, anchor=None))
    assert plain.fingerprint == free.fingerprint
