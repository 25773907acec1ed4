import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from models import TEXTS, load, with_experts, with_library
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tiny import make_checkpoint, random_adapter

from routerretriever import RouterRetriever
from routerretriever.errors import ExpertError, FingerprintError, HistoryError, StorageError
from routerretriever.storage import atomic, history
from routerretriever.storage.history import History, state_files


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("history") / "model"
    with_library(with_experts(checkpoint, n=3)).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(made, tmp_path):
    shutil.copytree(made, tmp_path / "model")
    return tmp_path / "model"


def contents(root):
    """What an entry holds, byte by byte."""
    return {path: (root / path).read_bytes() for path in state_files(root)}


def whats(entry):
    return [action["what"] for action in entry.actions]


def test_every_change_is_an_entry_with_its_figures(saved):
    model = load(saved)
    model.save_pretrained(saved)  # nothing changed
    first = History(saved).entries[0]
    assert [entry.number for entry in History(saved).entries] == [1]
    assert whats(first) == ["created", "added", "added", "added", "measured", "measured"]
    measured = next(action for action in first.actions if action.get("collection") == "c")
    means = dict(zip(("e0", "e1", "e2"), model.library.mean_gains()["c"].tolist(), strict=True))
    assert measured["gains"] == pytest.approx(means, abs=1e-6)
    model.rename_expert("e1", "law")
    model.save_experts(saved)
    model.remove_expert("e0")
    model.save_experts(saved)
    model.add_expert("e0", random_adapter(model.encoder.lora_layers, 7))
    model.add_expert("law", random_adapter(model.encoder.lora_layers, 8), replace=True)
    model.save_experts(saved)
    model.set_gains("e0", {"c": 0.25})
    model.save_experts(saved)
    entries = History(saved).entries
    assert entries[1].actions == ({"what": "renamed", "expert": "law", "was": "e1"},)
    assert [(a["what"], a["expert"]) for a in entries[2].actions] == [("removed", "e0")]
    assert sorted((a["what"], a["expert"]) for a in entries[3].actions) == [
        ("added", "e0"),
        ("replaced", "law"),
    ]
    assert entries[4].actions == ({"what": "measured", "collection": "c", "gains": {"e0": 0.25}},)
    assert entries[4].experts == {n: a.fingerprint for n, a in load(saved).state.experts.items()}
    assert all(entry.time.endswith("+00:00") and entry.base == model.encoder.fingerprint for entry in entries)


def test_renaming_changes_everything_that_names_an_expert(saved):
    model = load(saved)
    before, vectors = model.library, model.encode_query(TEXTS)
    model.rename_expert("e1", "law")
    model.save_experts(saved)
    loaded = load(saved)
    assert (
        list(loaded.experts)
        == ["e0", "law", "e2"]
        == list(loaded.library.experts)
        == list(loaded.library.versions)
    )
    assert sorted(path.name for path in (saved / "experts").iterdir()) == ["e0", "e2", "law"]
    for file in ("routerretriever.json", "pilots.json", "README.md"):
        text = (saved / file).read_text()
        assert '"law"' in text or "| law |" in text
        assert '"e1"' not in text and "| e1 |" not in text
    np.testing.assert_array_equal(loaded.library.gains, before.gains)
    assert {r.expert for r in loaded.route(TEXTS)} >= {"law"}
    assert abs(loaded.encode_query(TEXTS) - vectors).max() < 1e-6
    for old, new, message in (
        ("e1", "x", "no expert 'e1'"),
        ("e0", "law", "already has an expert 'law'"),
        ("e0", "a/b", "cannot be an expert's name"),
    ):
        with pytest.raises(ExpertError, match=message):
            loaded.rename_expert(old, new)
    assert list(loaded.experts) == ["e0", "law", "e2"]


def test_rolling_back_restores_every_byte(saved):
    model, states = load(saved), [contents(saved)]
    (saved / "notes.txt").write_text("mine")
    vectors = model.encode_query(TEXTS)
    model.remove_expert("e1")
    model.save_experts(saved)
    states.append(contents(saved))
    model.add_expert("e9", random_adapter(model.encoder.lora_layers, 9))
    model.save_pretrained(saved)
    states.append(contents(saved))
    assert states[0] != states[1] != states[2]
    kept = History(saved)
    base = (saved / "model.safetensors").stat().st_ino
    new = kept.rollback(1)
    assert (saved / "model.safetensors").stat().st_ino == base  # linked, not copied
    assert (new.number, new.actions) == (4, ({"what": "rolled back", "to": 1},))
    assert contents(saved) == states[0]
    np.testing.assert_allclose(load(saved).encode_query(TEXTS), vectors, atol=1e-6)
    assert (saved / "notes.txt").read_text() == "mine"
    assert not (saved / "experts" / "e9").exists()
    History(saved).rollback(3)  # undone
    assert contents(saved) == states[2]
    History(saved).rollback(2)
    assert contents(saved) == states[1]
    assert [entry.number for entry in History(saved).entries] == [1, 2, 3, 4, 5, 6]
    load(saved).save_experts(saved)  # what was restored is what would be saved
    assert len(History(saved).entries) == 6


def test_the_base_is_not_kept_and_a_content_is_kept_once(saved):
    model = load(saved)
    for number in range(3):
        model.rename_expert("e0" if number == 0 else f"n{number - 1}", f"n{number}")
        model.save_experts(saved)
    files = list((saved / "history" / "files").iterdir())
    digests = {digest for entry in History(saved).entries for digest in entry.files.values()}
    assert {path.name for path in files} == digests
    assert not any(
        path.endswith("model.safetensors") and "/" not in path
        for e in History(saved).entries
        for path in e.files
    )
    weights = [
        path
        for path in files
        if path.stat().st_size == (saved / "experts/e1/adapter_model.safetensors").stat().st_size
    ]
    assert len(weights) == 1
    assert History(saved).size() == sum(path.stat().st_size for path in files)


def test_other_loaders_are_not_disturbed(saved):
    from peft import PeftModel
    from transformers import AutoModel

    model = load(saved)
    model.remove_expert("e1")
    model.save_experts(saved)
    plain = SentenceTransformer(str(saved), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(plain.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-6)
    PeftModel.from_pretrained(AutoModel.from_pretrained(saved), saved, subfolder="experts/e0")
    model.save_pretrained(saved.parent / "elsewhere")
    assert [whats(entry)[0] for entry in History(saved.parent / "elsewhere").entries] == ["created"]


def test_pruned_entries_are_refused_and_the_rest_is_whole(saved):
    model = load(saved)
    model.remove_expert("e1")
    model.save_experts(saved)
    model.remove_expert("e2")
    model.save_experts(saved)
    kept = History(saved)
    size = kept.size()
    pruned = kept.prune(2)
    assert pruned.entries == (1,) and pruned.bytes == size - kept.size() > 0
    assert kept.prune(2).files == 0
    with pytest.raises(HistoryError, match=r"files of entry 1 were pruned.*can be restored: 2, 3"):
        History(saved).rollback(1)
    History(saved).rollback(2)
    assert list(load(saved).experts) == ["e0", "e2"]
    for number, message in ((9, "no entry 9. Choose an entry from 1 to 4"), (0, "no entry 0")):
        with pytest.raises(HistoryError, match=message):
            History(saved).rollback(number)
    with pytest.raises(HistoryError, match="at least 1"):
        kept.prune(0)


def test_damage_is_named_and_changes_nothing(saved):
    model = load(saved)
    model.remove_expert("e1")
    model.save_experts(saved)
    before = contents(saved)
    digest = History(saved).entries[0].files["pilots.json"]
    file = saved / "history" / "files" / digest
    whole = file.read_bytes()
    file.write_bytes(b"x")
    with pytest.raises(HistoryError, match=r"kept copy of pilots.json of entry 1 is damaged"):
        History(saved).rollback(1)
    file.write_bytes(whole)
    log = saved / "history" / "log.jsonl"
    text = log.read_text()
    log.write_text(text + '{"number": 3,')
    with pytest.raises(HistoryError, match=r"log.jsonl, line 3 is damaged"):
        History(saved)
    with pytest.raises(HistoryError, match="move the folder 'history' away"):
        model.save_experts(saved)
    assert contents(saved) == before
    log.write_text(text)
    model.save_experts(saved)


def test_damage_to_the_model_is_undone_by_its_own_entry(saved):
    before, path = contents(saved), saved / "experts" / "e1" / "adapter_model.safetensors"
    save_file({key: tensor * 0 for key, tensor in load_file(path).items()}, path)
    (saved / "routerretriever.json").write_text("{")
    History(saved).rollback(1)
    assert contents(saved) == before
    load(saved)


@pytest.mark.parametrize(
    "where", ["atomic._carry_over", "atomic._sync_tree", "atomic._swap", "history._write"]
)
@pytest.mark.parametrize("change", ["save", "rollback"])
def test_a_fault_between_the_steps_leaves_the_old_model_and_log(saved, monkeypatch, where, change):
    model = load(saved)
    model.remove_expert("e1")
    model.save_experts(saved)
    before = {p: p.read_bytes() for p in saved.rglob("*") if p.is_file()}

    def killed(*args, **kwargs):
        raise OSError("the power went")

    module, name = where.split(".")
    monkeypatch.setattr({"atomic": atomic, "history": history}[module], name, killed)
    model.rename_expert("e0", "x")
    kept = History(saved)
    with pytest.raises(StorageError, match="unchanged"):
        _ = model.save_experts(saved) if change == "save" else kept.rollback(1)
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in saved.rglob("*") if p.is_file()} == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
    assert list(load(saved).experts) == ["e0", "e2"]


def test_a_model_from_before_there_was_a_history(saved, tmp_path):
    shutil.rmtree(saved / "history")
    before = contents(saved)
    model = load(saved)
    model.remove_expert("e1")
    model.save_experts(saved)
    first, second = History(saved).entries
    assert whats(first) == ["found"] and [a["what"] for a in second.actions] == ["removed"]
    History(saved).rollback(1)
    assert contents(saved) == before


def test_entries_of_another_base_are_not_returned_to(saved, tmp_path):
    other = RouterRetriever.create(str(make_checkpoint(tmp_path / "other", "roberta")), device="cpu")
    other.add_expert("r", random_adapter(other.encoder.lora_layers, 0))
    other.save_pretrained(saved)
    assert whats(History(saved).entries[-1])[0] == "base"
    with pytest.raises(FingerprintError, match="Entry 1 belongs to another base"):
        History(saved).rollback(1)
    assert list(load(saved).experts) == ["r"]


@pytest.mark.slow
def test_what_is_kept_does_not_change_with_the_process(saved):
    """The order of PEFT's sets depends on the process; files must not, or every save would be another version."""
    import subprocess
    import sys

    code = f"from routerretriever import RouterRetriever as R; R.from_pretrained({str(saved)!r}, device='cpu').save_experts({str(saved)!r})"
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
    )
    assert len(History(saved).entries) == 1
    config = json.loads(Path(saved, "experts", "e0", "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])


def test_gains_know_the_version_they_were_measured_with(saved):
    model = load(saved)
    assert model.library.versions == {n: a.fingerprint for n, a in model.state.experts.items()}
    model.add_expert("e1", random_adapter(model.encoder.lora_layers, 9), replace=True)
    assert "e1" not in model.library.versions
    model.set_gains("e1", {"c": 0.1})
    assert model.library.versions["e1"] == model.state.experts["e1"].fingerprint
