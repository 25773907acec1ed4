"""Changes of a saved model by several processes: none is lost."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from commands import run, run_json
from models import load, with_experts, with_library
from tiny import make_checkpoint, random_adapter

from routerretriever import RouterRetriever
from routerretriever.change_model import change_after, changed_model, save_trained
from routerretriever.errors import FingerprintError, LockedError, ModelError
from routerretriever.experts import train
from routerretriever.storage import history, locks
from routerretriever.storage.locks import changing

QUICK = ["--epochs", "2", "--batch-size", "16", "--lr", "0.01", "--rank", "2", "--force"]


@pytest.fixture
def saved(checkpoint, tmp_path):
    with_library(with_experts(checkpoint, n=1)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def add(folder, name, seed=9):
    """What another process does meanwhile."""
    with changed_model(folder, "cpu") as model:
        model.add_expert(name, random_adapter(model.encoder.lora_layers, seed))


def in_another_thread(*arguments):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(add, *arguments).result(timeout=60)


def test_changes_at_the_same_moment_are_all_kept(saved):
    threads = [threading.Thread(target=add, args=(saved, f"n{seed}", seed)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(load(saved).experts) == {"e0", "n0", "n1", "n2", "n3"}


def test_an_expert_added_during_a_training_is_kept(saved, make_collection, monkeypatch):
    original = train.train_expert

    def slow(model, *args, **kwargs):
        report = original(model, *args, **kwargs)
        in_another_thread(saved, "meanwhile")  # the training does not hold the lock
        return report

    monkeypatch.setattr(train, "train_expert", slow)
    run("train", saved, make_collection("x"), *QUICK)
    assert list(load(saved).experts) == ["e0", "meanwhile", "x"]


def test_two_trainings_that_create_one_model(checkpoint, make_collection, tmp_path, monkeypatch):
    original, folder = train.train_expert, tmp_path / "new" / "model"

    def slow(model, *args, **kwargs):
        report = original(model, *args, **kwargs)
        with_experts(checkpoint, n=1).save_pretrained(folder)
        return report

    monkeypatch.setattr(train, "train_expert", slow)
    run("train", folder, make_collection("x"), "--base", checkpoint, *QUICK)
    assert list(load(folder).experts) == ["e0", "x"]


def test_a_name_that_is_taken_meanwhile_costs_no_training(saved):
    trained = load(saved)
    trained.add_expert("law", random_adapter(trained.encoder.lora_layers, 1))
    add(saved, "law", 2)
    assert save_trained(saved, trained, "law") == "law-2"
    assert save_trained(saved, trained, "law") == "law-3"
    kept = load(saved).state.experts
    assert kept["law-2"].fingerprint == trained.state.experts["law"].fingerprint != kept["law"].fingerprint
    assert save_trained(saved, trained, "law", replace=True) == "law"
    assert load(saved).state.experts["law"].fingerprint == kept["law-2"].fingerprint


def test_a_model_replaced_by_another_is_not_mixed(saved, checkpoint, tmp_path):
    trained = load(saved)
    trained.add_expert("law", random_adapter(trained.encoder.lora_layers, 1))
    with_experts(checkpoint, n=1, branch_layer=0).save_pretrained(saved)
    with pytest.raises(ModelError, match="other layers"):
        save_trained(saved, trained, "law")
    other = RouterRetriever.create(str(make_checkpoint(tmp_path / "other", "roberta")), device="cpu")
    other.save_pretrained(saved)
    with pytest.raises(FingerprintError, match="replaced during the training"):
        save_trained(saved, trained, "law")


def test_an_expert_added_while_the_library_is_measured_is_kept_and_measured(
    saved, make_collection, monkeypatch
):
    original, calls = RouterRetriever.build_library, []

    def slow(model, *args, **kwargs):
        built = original(model, *args, **kwargs)
        calls.append(built)
        if len(calls) == 1:
            in_another_thread(saved, "meanwhile")
        return built

    monkeypatch.setattr(RouterRetriever, "build_library", slow)
    shown = run_json("library", saved, make_collection("x"))
    assert shown["experts"] == ["e0", "meanwhile"] == list(load(saved).experts)
    assert load(saved).library.unmeasured() == shown["unmeasured"] and len(calls) == 2


def test_long_work_is_done_once_where_nobody_interferes(saved):
    calls = []

    def work(model):
        calls.append(list(model.experts))
        model.rename_expert("e0", "law")
        return 7

    model, result = change_after(saved, work, device="cpu")
    assert (result, calls, list(model.experts)) == (7, [["e0"]], ["law"])
    assert list(load(saved).experts) == ["law"]


def test_a_block_that_fails_changes_nothing(saved):
    def fail():
        with changed_model(saved, "cpu") as model:
            model.remove_expert("e0")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(load(saved).experts) == ["e0"]


@pytest.mark.parametrize("verb", [["log", "--prune", "1"], ["rollback", "1"], ["remove", "e0"]])
def test_commands_wait_for_the_lock(saved, monkeypatch, verb):
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.05)
    before = history.History(saved).size()
    with changing(saved):
        shown = run_json("experts", verb[0], saved, *verb[1:], code=1)
    assert shown["error"]["type"] == LockedError.__name__
    assert history.History(saved).size() == before and list(load(saved).experts) == ["e0"]
