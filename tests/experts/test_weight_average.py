"""What becomes a map is the average of its matrix over the last steps."""

from dataclasses import replace

import pytest
import torch
from training import QUICK

from routerretriever import Collection, train_expert
from routerretriever.experts import held_out
from routerretriever.experts.checkpoint import Checkpoint
from routerretriever.experts.trainer import Trainer
from routerretriever.experts.training_config import PRESETS, Preset, TrainedKinds
from routerretriever.experts.weight_average import first_average, move_average
from routerretriever.lora.adapter import Adapter

MAP = replace(QUICK, kind=TrainedKinds.MAP, map_epochs=6, map_learning_rate=0.03, map_batch_size=16)
BOTH = replace(MAP, kind=TrainedKinds.BOTH, epochs=2, learning_rate=1e-3)  # leaves something to the map


@pytest.fixture
def trainers(monkeypatch):
    """Every trainer that runs, with the factors after each of its steps as ``kept``."""
    found = []
    run, one_step = Trainer.run, Trainer._one_step

    def kept_run(self, progress):
        self.kept = []
        found.append(self)
        return run(self, progress)

    def kept_step(self):
        one_step(self)
        self.kept.append(self.state.adapter.detached())

    monkeypatch.setattr(Trainer, "run", kept_run)
    monkeypatch.setattr(Trainer, "_one_step", kept_step)
    return found


def averaged(kept, span):
    """The average of some states, by its definition: weight 1/t at step t, and 1/span from there on."""
    factors = [factor.double() for factor in kept[0].parameters()]
    for step, adapter in enumerate(kept, 1):
        weight = 1 / min(step, span)
        pairs = zip(factors, adapter.parameters(), strict=True)
        factors = [(1 - weight) * old + weight * new.double() for old, new in pairs]
    return factors


def close(adapter, factors):
    return all(map(torch.allclose, (f.double() for f in adapter.parameters()), factors))


def test_few_steps_count_alike_and_later_ones_fade():
    def of(value):
        return Adapter({"layer": (torch.full((1, 2), value), torch.full((2, 1), -value))}, 2.0)

    average = first_average(of(100.0))
    found = []
    for step, value in enumerate((1.0, 3.0, 5.0, 8.0), 1):
        move_average(average, of(value), step, span=3.0)
        found.append(float(average.factors["layer"][0][0, 0]))
    assert found == pytest.approx([1.0, 2.0, 3.0, 3.0 + 5.0 / 3])
    assert average.factors["layer"][1].tolist() == pytest.approx(-average.factors["layer"][0].T)
    move_average(average, of(7.0), 5, span=0.2)  # less than a step
    assert average.factors["layer"][0].tolist() == [[7.0, 7.0]]


@pytest.mark.parametrize("few", [10, 10_000], ids=["split", "cross-fit"])
def test_every_part_of_the_plan_chooses_among_averages_of_a_map(
    model, make_collection, monkeypatch, trainers, few
):
    monkeypatch.setattr(held_out, "FEW_HELD_OUT", few)
    config = replace(BOTH, map_averaged_epochs=1.5)
    train_expert(model, Collection.load(make_collection("aliases")), config=config, force=True)
    lora, *maps = trainers
    assert maps
    for trainer in trainers:
        assert len(trainer.state.choices) == (1 if few == 10 else 6)
        for choice in trainer.state.choices:
            if choice.best is None:
                continue
            of_step = trainer.kept[choice.step - 1]
            if trainer is lora:
                assert choice.best.fingerprint == of_step.fingerprint
                continue
            kept, span = trainer.kept[: choice.step], 1.5 * trainer.steps_per_epoch
            assert close(choice.best, averaged(kept, span))
            assert not close(choice.best, [factor.double() for factor in of_step.parameters()])
    assert any(choice.best is not None for trainer in maps for choice in trainer.state.choices)


@pytest.mark.parametrize("collections", [1, 2])
def test_the_average_is_on_unless_it_is_turned_off(model, make_collection, trainers, collections):
    """A generalist's epoch is one pass over all of its collections."""
    assert PRESETS[Preset.PAPER].averaged_epochs == 0
    known = [Collection.load(make_collection(f"x{shift}", shift)) for shift in range(1, collections + 1)]
    for config in (MAP, replace(MAP, map_averaged_epochs=0.0)):
        train_expert(model, known, name="map", config=config, force=True)
    average, single = trainers
    step = average.state.choices[0].step
    assert close(average.state.choices[0].best, averaged(average.kept[:step], average.steps_per_epoch))
    best = single.state.choices[0]
    assert best.best.fingerprint == single.kept[best.step - 1].fingerprint


def test_a_map_that_nothing_chose_is_an_average_too(model, make_collection, monkeypatch, trainers):
    monkeypatch.setattr(Trainer, "_check_held_out", lambda self: None)
    train_expert(model, Collection.load(make_collection("aliases")), config=MAP, force=True)
    (trainer,) = trainers
    assert close(trainer.chosen[0].adapter, averaged(trainer.kept, trainer.steps_per_epoch))


@pytest.mark.parametrize("averaged_epochs", [1.0, 0.0])
def test_a_resumed_map_ends_with_the_same_average(model, make_collection, monkeypatch, averaged_epochs):
    collection = Collection.load(make_collection("aliases"))
    config = replace(MAP, map_averaged_epochs=averaged_epochs)
    train_expert(model, collection, config=config, force=True)
    undisturbed = model.state.experts["aliases"].fingerprint

    saved, save = [], Checkpoint.save

    def interrupted_save(self, state):
        save(self, state)
        saved.append(state.step)
        if len(saved) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", interrupted_save)
        with pytest.raises(KeyboardInterrupt):
            train_expert(model, collection, config=config, force=True)
    report = train_expert(model, collection, config=config, force=True)
    assert report.resumed and report.best_step > saved[0]
    assert model.state.experts["aliases"].fingerprint == undisturbed
