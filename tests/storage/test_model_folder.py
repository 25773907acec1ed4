import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from commands import run
from models import TEXTS, with_experts
from peft_adapters import peft_adapter
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tiny import make_checkpoint, random_adapter

from routerretriever import RouterRetriever, add_expert
from routerretriever.errors import (
    ExpertError,
    FingerprintError,
    FormatError,
    LibraryError,
    ModelError,
    SilentExpertError,
    StorageError,
)
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import GainRouter
from routerretriever.storage import atomic, model_folder
from routerretriever.storage.atomic import remove_leftovers, replacing, restore
from routerretriever.storage.locks import locked_folder


@pytest.fixture
def model(checkpoint):
    """Three experts and a library whose pilots lie where the texts do."""
    model = with_experts(checkpoint, n=3)
    embeddings = model.route_embeddings(TEXTS)
    gains = np.eye(3, dtype=np.float32)[np.arange(len(TEXTS)) % 3] - 0.1
    library = PilotLibrary(
        experts=("e0", "e1", "e2"),
        centroids=embeddings,
        gains=gains,
        counts=np.ones(len(TEXTS), np.int64),
        sources=("c",) * len(TEXTS),
        examples=tuple(TEXTS),
    )
    model.state = model.state.with_policy(RoutingPolicy(GainRouter(library.fitted(), neighbours=1)))
    return model


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_every_loader_reads_it(model, saved):
    wanted = model.encode_query(TEXTS)
    loaded = RouterRetriever.from_pretrained(saved, device="cpu")
    plain = SentenceTransformer(str(saved), trust_remote_code=True, device="cpu")
    assert abs(loaded.encode_query(TEXTS) - wanted).max() < 1e-6
    assert abs(plain.encode_query(TEXTS) - wanted).max() < 1e-6
    assert (loaded.encode_document(TEXTS) == model.encode_document(TEXTS)).all()
    assert loaded.experts == model.experts
    assert [r.expert for r in loaded.route(TEXTS)] == [r.expert for r in model.route(TEXTS)]
    assert not (saved / "adapter_config.json").exists()
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(saved), device="cpu")


def test_saving_twice_gives_the_same_model(saved, tmp_path):
    # The first save of a foreign tokeniser adds its defaults; from then on nothing changes.
    RouterRetriever.from_pretrained(saved, device="cpu").save_pretrained(saved)
    RouterRetriever.from_pretrained(saved, device="cpu").save_pretrained(tmp_path / "again")
    for path in saved.rglob("*"):
        if path.is_file() and "history" not in path.parts:  # says when
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(saved)).read_bytes(), path


def test_adapters_name_the_base_by_id_and_never_by_path(saved):
    config = json.loads((saved / "experts" / "e0" / "adapter_config.json").read_text())
    assert "/" not in config["base_model_name_or_path"].removeprefix("sentence-transformers/")
    everything = "".join(p.read_text() for p in saved.rglob("*.json"))
    assert "/tmp" not in everything


def test_renamed_directory_still_loads(saved, model, tmp_path):
    saved.rename(tmp_path / "elsewhere")
    loaded = RouterRetriever.from_pretrained(tmp_path / "elsewhere", device="cpu")
    assert abs(loaded.encode_query(TEXTS) - model.encode_query(TEXTS)).max() < 1e-6


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda p: rewrite(p / "routerretriever.json", format_version=99), FormatError, "format 99.*Upgrade"),
        (lambda p: (p / "routerretriever.json").write_text("{"), FormatError, "is damaged"),
        (lambda p: (p / "routerretriever.json").unlink(), FormatError, "not a RouterRetriever model"),
        (lambda p: (p / "modules.json").write_text('[{"type": "os.system"}]'), FormatError, "names the modules os.system"),
        (lambda p: (p / "modules.json").unlink(), FormatError, "modules.json is missing"),
        (lambda p: (p / "pilots.safetensors").write_bytes(b"x"), LibraryError, "is damaged"),
        (lambda p: rewrite(p / "pilots.json", format_version=9), LibraryError, "format 9"),
        (lambda p: rewrite(p / "pilots.json", base_fingerprint="0" * 32), FingerprintError, "another base"),
        (lambda p: shutil.rmtree(p / "experts" / "e1"), ExpertError, "not a PEFT adapter"),
        (lambda p: (p / "experts/e1/adapter_model.safetensors").write_bytes(b"x"), ExpertError, "is damaged"),
        (lambda p: rewrite(p / "experts/e1/adapter_config.json", use_dora=True), ExpertError, "use_dora"),
        (lambda p: change_weights(p / "model.safetensors", lambda t: t + 0.01), FingerprintError, "another base"),
        (lambda p: change_weights(p / "experts/e1/adapter_model.safetensors", torch.zeros_like), SilentExpertError, "e1"),
    ],
)  # fmt: skip
def test_damage_is_named(saved, damage, error, message):
    damage(saved)
    with pytest.raises(error, match=message):
        RouterRetriever.from_pretrained(saved, device="cpu")


def change_weights(path, change):
    save_file(
        {key: change(tensor) for key, tensor in load_file(path).items()}, path, metadata={"format": "pt"}
    )


def test_missing_directory_says_what_to_do(tmp_path):
    with pytest.raises(FormatError, match="routerretriever train"):
        RouterRetriever.from_pretrained(tmp_path / "nothing")


def test_save_refuses_a_folder_with_other_things(model, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="not empty and not a model"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_other_formats_than_safetensors_are_refused(model, tmp_path):
    with pytest.raises(ModelError, match="safetensors only"):
        model.save_pretrained(tmp_path / "model", safe_serialization=False)
    assert not (tmp_path / "model").exists()


def test_users_files_are_carried_over_and_removed_experts_are_not(model, saved):
    (saved / "NOTES.md").write_text("mine")
    (saved / "notes").mkdir()
    (saved / "notes" / "a.txt").write_text("mine too")
    model.remove_expert("e1")
    model.save_pretrained(saved)
    assert (saved / "NOTES.md").read_text() == "mine"
    assert (saved / "notes" / "a.txt").read_text() == "mine too"
    assert not (saved / "experts" / "e1").exists()
    assert list(RouterRetriever.from_pretrained(saved, device="cpu").experts) == ["e0", "e2"]


@pytest.mark.parametrize("where", ["save_expert", "_write_json", "_sync_tree", "_carry_over"])
def test_full_disk_leaves_the_old_model(model, saved, monkeypatch, where):
    before = {p: p.read_bytes() for p in saved.rglob("*") if p.is_file()}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    module = atomic if hasattr(atomic, where) else model_folder
    monkeypatch.setattr(module, where, full)
    model.remove_expert("e1")
    with pytest.raises(StorageError, match="disk is full.*unchanged"):
        model.save_pretrained(saved)
    assert {p: p.read_bytes() for p in saved.rglob("*") if p.is_file()} == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_swap_without_the_systems_exchange(model, saved, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    model.remove_expert("e1")
    model.save_pretrained(saved)
    assert list(RouterRetriever.from_pretrained(saved, device="cpu").experts) == ["e0", "e2"]
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("by", ["load", "save", "command"])
def test_a_kill_between_the_two_renames_loses_nothing(model, saved, by):
    """Without the system's exchange, a save sets the old folder aside before the new one is in place."""
    program = """
import os, sys
from pathlib import Path
from routerretriever.storage import atomic
atomic._exchange = lambda a, b: False
rename = Path.rename
def killed(self, target):
    rename(self, target)
    os._exit(9)
Path.rename = killed
with atomic.replacing(Path(sys.argv[1])) as staging:
    (staging / "new").write_text("new")
"""
    assert subprocess.run([sys.executable, "-c", program, str(saved)], check=False).returncode == 9
    assert not saved.exists()
    if by == "save":
        model.save_pretrained(saved)
    if by == "command":
        run("experts", saved)
    assert list(RouterRetriever.from_pretrained(saved, device="cpu").experts) == ["e0", "e1", "e2"]
    assert not (saved / "new").exists()
    remove_leftovers(saved)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_what_a_save_at_work_has_set_aside_is_left_alone(tmp_path):
    aside = tmp_path / ".model.x.tmp.old"
    aside.mkdir()
    (tmp_path / ".model.x.tmp").mkdir()
    with locked_folder(tmp_path / ".model.x.tmp"):
        restore(tmp_path / "model")
        remove_leftovers(tmp_path / "model")
        assert aside.exists() and not (tmp_path / "model").exists()
    restore(tmp_path / "model")
    assert (tmp_path / "model").exists() and not aside.exists()


@pytest.mark.slow
def test_kill_during_save_leaves_a_whole_model(model, saved):
    """A process saves over and over and is killed at different moments; what stands there always loads."""
    program = textwrap.dedent(
        """
        import sys
        from routerretriever import RouterRetriever
        model = RouterRetriever.from_pretrained(sys.argv[1], device="cpu")
        print("ready", flush=True)
        while True:
            model.save_pretrained(sys.argv[1])
        """
    )
    wanted = model.encode_query(TEXTS)
    import time

    for delay in (0.0, 0.03, 0.11, 0.23):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(saved)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        loaded = RouterRetriever.from_pretrained(saved, device="cpu")
        assert abs(loaded.encode_query(TEXTS) - wanted).max() < 1e-6


# -- experts from elsewhere ------------------------------------------------------------------------


def test_import_refuses_what_does_not_fit(checkpoint, tmp_path):
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    own = model.encoder.base.id
    peft_adapter(tmp_path / "foreign", checkpoint, "somebody/else")
    with pytest.raises(ExpertError, match="trained for the base 'somebody/else'"):
        add_expert(model, tmp_path / "foreign")
    assert add_expert(model, tmp_path / "foreign", trust_base=True)[0] == "foreign"
    peft_adapter(tmp_path / "low", checkpoint, own, layers_to_transform=[0])
    with pytest.raises(ExpertError, match="below the model's branch layer"):
        add_expert(model, tmp_path / "low")
    with pytest.raises(ExpertError, match="has no adapter_config.json"):
        add_expert(model, tmp_path)
    peft_adapter(tmp_path / "zero", checkpoint, own)
    change_weights(tmp_path / "zero" / "adapter_model.safetensors", torch.zeros_like)
    with pytest.raises(SilentExpertError, match="changes no query vector"):
        add_expert(model, tmp_path / "zero")
    save_file({}, tmp_path / "zero" / "adapter_model.safetensors")
    with pytest.raises(ExpertError, match="rank 0"):
        add_expert(model, tmp_path / "zero")
    assert list(model.experts) == ["foreign"]


def test_import_of_another_size_is_refused(checkpoint, tmp_path):
    make_checkpoint(tmp_path / "wide")
    path = tmp_path / "wide"
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    peft_adapter(tmp_path / "a", path, model.encoder.base.id)
    weights = tmp_path / "a" / "adapter_model.safetensors"
    change_weights(weights, lambda t: torch.cat([t, t], dim=1) if t.shape[1] == 32 else t)
    with pytest.raises(ExpertError, match=r"made for a weight of 32×64, this base has 32×32"):
        add_expert(model, tmp_path / "a")


@pytest.mark.parametrize("name", ["base", "merged", "routed", "../evil", "", "a/b", ".hidden"])
def test_names_that_cannot_be_folders_or_are_taken(checkpoint, name):
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    with pytest.raises(ExpertError, match="cannot be an expert's name"):
        model.add_expert(name, random_adapter(model.encoder.lora_layers, 0))


def test_removing_what_is_not_there(model):
    with pytest.raises(ExpertError, match="no expert 'x'.*e0, e1, e2"):
        model.remove_expert("x")


def test_base_must_be_an_encoder(tmp_path):
    with pytest.raises(ModelError, match="could not be loaded"):
        RouterRetriever.create(str(tmp_path))
    with pytest.raises(ModelError, match="could not be loaded"):
        RouterRetriever.create("nobody/nothing")


def test_leftovers_of_killed_saves_go_but_not_those_of_saves_at_work(tmp_path):
    (tmp_path / ".model.killed.tmp").mkdir()
    (tmp_path / ".other.killed.tmp").mkdir()
    with replacing(tmp_path / "model") as first:
        (first / "a").write_text("1")
        assert not (tmp_path / ".model.killed.tmp").exists()
        remove_leftovers(tmp_path / "model")
        assert first.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.killed.tmp", "model"]


def test_experts_are_saved_beside_a_base_that_stays(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    weights = (tmp_path / "model" / "model.safetensors").stat().st_ino
    removed, *kept = model.experts
    model.remove_expert(removed)
    model.save_experts(tmp_path / "model")
    loaded = RouterRetriever.from_pretrained(tmp_path / "model", device="cpu")
    assert list(loaded.experts) == kept
    assert (tmp_path / "model" / "model.safetensors").stat().st_ino == weights
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "model" / "experts" / removed).exists()
    np.testing.assert_array_equal(loaded.encode_query(["word1"]), model.encode_query(["word1"]))
