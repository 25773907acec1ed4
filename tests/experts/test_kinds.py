"""Training maps, alone and behind LoRA factors, and the choice among the kinds."""

from dataclasses import replace

import pytest
import torch
from models import with_experts
from training import QUICK

from routerretriever import TrainingConfig, merge_experts, train_expert
from routerretriever.errors import ExpertError
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.experts import held_out
from routerretriever.experts.kinds import best_kind
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.lora.adapter import VECTOR_MAP, Adapter, Kind
from routerretriever.storage.cache_directory import cache_directory


def held_out_score(model, collection, expert):
    _, held = collection.train_and_held_out()
    vectors = model.encode_query(list(held.queries.values()), expert=expert)
    return ndcg_at_10(vectors, held, model.embed_collection(collection), collection).mean()


def test_a_map_learns_and_is_stored_at_a_low_rank(model, collection):
    config = replace(QUICK, kind=TrainedKinds.MAP, map_learning_rate=0.03, map_epochs=60)
    report = train_expert(model, collection, config=config, force=True)
    adapter = model.state.experts["aliases"]
    assert report.kind == adapter.kind == Kind.MAP
    assert report.info.selection_gain > 0.05
    assert adapter.rank_in(VECTOR_MAP) <= model.encoder.dimension // 2
    wanted = report.info.base_ndcg + report.info.selection_gain
    assert held_out_score(model, collection, "aliases") == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("few", [10, 10_000], ids=["split", "cross-fit"])
def test_both_begins_with_what_lora_learned(model, collection, few, monkeypatch):
    monkeypatch.setattr(held_out, "FEW_HELD_OUT", few)
    train_expert(model, collection, name="layers", config=QUICK, force=True)
    config = replace(QUICK, kind=TrainedKinds.BOTH)
    report = train_expert(model, collection, name="both", config=config, force=True)
    both, layers = model.state.experts["both"], model.state.experts["layers"]
    assert both.layers.fingerprint == layers.fingerprint
    assert report.kind == both.kind
    # The map is kept only where it adds something by the queries that choose.
    gain = report.info.selection_gain - model.experts["layers"].selection_gain
    assert gain > -0.01 if both.kind == Kind.BOTH else gain == 0


def test_a_map_stands_alone_where_lora_beats_nothing(model, collection, monkeypatch):
    monkeypatch.setattr(held_out, "FEW_HELD_OUT", 10)
    config = replace(QUICK, map_learning_rate=0.03, map_epochs=60, learning_rate=1e-9, epochs=1)
    for kind in (TrainedKinds.MAP, TrainedKinds.BOTH, TrainedKinds.AUTO):
        report = train_expert(model, collection, name=kind, config=replace(config, kind=kind), force=True)
        assert report.kind == Kind.MAP
    fingerprints = {model.state.experts[kind].fingerprint for kind in ("map", "both", "auto")}
    assert len(fingerprints) == 1


@pytest.mark.parametrize("kind", TrainedKinds)
def test_a_finished_training_leaves_no_checkpoint(model, collection, kind):
    train_expert(model, collection, config=replace(QUICK, kind=kind), force=True)
    assert not list((cache_directory() / "training").iterdir())


def test_auto_keeps_the_kind_that_held_out_queries_prefer(model, collection):
    gains = {}
    for kind in (TrainedKinds.LORA, TrainedKinds.MAP, TrainedKinds.BOTH):
        report = train_expert(model, collection, name=kind, config=replace(QUICK, kind=kind), force=True)
        gains[report.kind] = report.info.selection_gain
    report = train_expert(
        model, collection, name="auto", config=replace(QUICK, kind=TrainedKinds.AUTO), force=True
    )
    assert report.info.selection_gain == pytest.approx(max(gains.values()), abs=1e-6)
    assert gains[report.kind] == max(gains.values())


def test_queries_that_measure_do_not_choose_the_kind():
    class Scores:
        def __init__(self, **means):
            self.means = means

        def mean(self, rows):
            return self.means[rows]

    class Of:
        def __init__(self, scores):
            self.scores = scores

    def kind(*scores):
        return type("Kind", (), {"chosen": list(map(Of, scores))})()

    parts = [type("Part", (), {"selects": name})() for name in ("all", "fold")]
    plan = type("Plan", (), {"parts": parts})()
    lora = kind(Scores(all=0.6), Scores(fold=0.4))
    mapped = kind(Scores(all=0.5), Scores(fold=0.5))
    best, chosen = best_kind([lora, mapped], plan)
    assert best is lora
    assert chosen == [lora.chosen[0], mapped.chosen[1]]


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(ExpertError, match="kind"):
        TrainingConfig(kind="linear")


def test_merging_keeps_the_rank_of_each_layer(checkpoint):
    model = with_experts(checkpoint, 1, kinds=("both",))
    first = next(iter(model.state.experts.values()))
    ranks = dict.fromkeys(first.layers.factors, 2)
    wide = Adapter({**first.factors, VECTOR_MAP: (torch.randn(20, 32), torch.randn(32, 20))}, 1.0)
    model.add_expert("wide", wide)
    merge_experts(model, ["wide", "e0"], "sum")
    found = {name: model.state.experts["sum"].rank_in(name) for name in wide.factors}
    assert found == {**ranks, VECTOR_MAP: 20}
