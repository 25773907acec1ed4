"""Experts that are trained anew for another base, from what a saved model remembers."""

import json
import re
import shutil

import pytest
from commands import run, run_json
from tiny import collection_maker, make_checkpoint
from training import QUICK

from routerretriever import Collection, RouterRetriever, train_expert
from routerretriever.errors import ExpertError
from routerretriever.experts.train_again import remembered_experts
from routerretriever.storage.model_folder import forget_training_data


@pytest.fixture(scope="module")
def former(checkpoint, tmp_path_factory):
    """A saved model with two experts; returns its folder and those of the collections."""
    tmp_path = tmp_path_factory.mktemp("former")
    make_collection = collection_maker(tmp_path)
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    folders = {name: make_collection(name, shift) for name, shift in (("aliases", 1), ("others", 2))}
    for name, folder in folders.items():
        train_expert(model, Collection.load(folder, cut_off=name == "others"), config=QUICK, force=True)
    model.save(tmp_path / "former")
    return tmp_path / "former", folders


def test_what_an_expert_was_trained_on_is_remembered(former):
    path, folders = former
    aliases, others = remembered_experts(path)
    assert [data.place for data in aliases.info.trained_on_data] == [str(folders["aliases"].resolve())]
    assert (aliases.collections[0].cut_off, others.collections[0].cut_off) == (False, True)
    assert aliases.config == QUICK
    assert [expert.name for expert in remembered_experts(path, ["others"])] == ["others"]


def test_experts_are_trained_for_a_new_base(former, tmp_path):
    path, _ = former
    base = make_checkpoint(tmp_path / "base", "mpnet", dimension=48)
    new = tmp_path / "new"
    told = run_json("train", new, "--again", path, "--base", base, "--name", "aliases", "--force")
    assert [report["expert"] for report in told["trained"]] == ["aliases"]
    model = RouterRetriever.from_pretrained(new, device="cpu")
    info = model.experts["aliases"]
    assert info.config["epochs"] == QUICK.epochs
    assert info.trained_on_data == remembered_experts(path)[0].info.trained_on_data

    told = run_json("train", new, "--again", path)
    assert told["kept"] == ["aliases"]
    assert {report["expert"] for report in told["trained"]} | set(told["without_gain"]) == {"others"}
    shown = " ".join(run("train", new, "--again", path, "--name", "aliases", "--force").output.split())
    assert re.search(
        r"aliases: held-out nDCG@10 [\d.]+, base [\d.]+ \([+-−][\d.]+ points\), p = .*; before [\d.]+, base",
        shown,
    )


def test_data_that_is_gone_or_changed_is_refused_by_name(former, tmp_path):
    path, folders = former
    corpus = folders["aliases"] / "corpus.jsonl"
    written = corpus.read_text()
    corpus.write_text(written + json.dumps({"_id": "more", "text": "word1"}) + "\n")
    folders["others"].rename(tmp_path / "moved")
    shown = run("train", tmp_path / "new", "--again", path, code=1).stderr
    corpus.write_text(written)
    (tmp_path / "moved").rename(folders["others"])
    words = " ".join(shown.split())
    assert "'aliases': the collection at" in words
    assert "has changed since" in words
    assert "'others': There is no collection at" in words
    assert not (tmp_path / "new").exists()
    with pytest.raises(ExpertError, match="has no expert 'none'. It has: aliases, others"):
        remembered_experts(path, ["none"])


def test_what_is_not_remembered_is_refused(former, tmp_path):
    path = tmp_path / "uploaded"
    shutil.copytree(former[0], path)
    forget_training_data(path)
    with pytest.raises(ExpertError, match="'aliases': what it was trained on is not remembered"):
        remembered_experts(path)
    assert "Leave out: collection, rank" in " ".join(
        run("train", tmp_path / "new", "word", "--again", path, "--rank", 4, code=1).stderr.split()
    )
    assert "Name a collection" in run("train", tmp_path / "new", code=1).stderr
