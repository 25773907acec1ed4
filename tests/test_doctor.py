import json
import re
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import run, run_json
from models import load, with_library
from safetensors.torch import load_file, save_file
from tiny import collection_maker, random_adapter, write_beir

from routerretriever import Collection, RouterRetriever, doctor
from routerretriever.doctor import diagnose
from routerretriever.errors import FormatError
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.peft_files import save_adapter


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """A healthy model, but for the few queries of its collections."""
    folder = tmp_path_factory.mktemp("doctor") / "model"
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    for number in range(3):
        model.add_expert(f"e{number}", random_adapter(model.encoder.lora_layers, number))
    with_library(model).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(made, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "FEW_QUERIES", 12)
    shutil.copytree(made, tmp_path / "model")
    return tmp_path / "model"


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change(path, how):
    save_file({key: how(tensor) for key, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def weights(root, name="e1"):
    return root / "experts" / name / "adapter_model.safetensors"


def another(root):
    """Weights that were put into the folder by hand."""
    model = load(root)
    adapter = random_adapter(model.encoder.lora_layers, 50)
    save_adapter(adapter, root / "experts" / "e1", base=model.encoder.base.id, revision=None)


def copied(root):
    model = load(root)
    model.add_expert("copy", Adapter(model.state.experts["e0"].factors, 0.7))
    model.save_experts(root)


def without_library(root):
    model = load(root)
    model.state = model.state.with_policy(None)
    model.save_experts(root)


def never_winning(root):
    model = load(root)
    model.set_gains("e2", {"c": -0.5, "d": -0.5})
    model.save_experts(root)


def stray(root):
    shutil.copytree(root / "experts" / "e0", root / "experts" / "old")


def before_versions(root):
    rewrite(root / "pilots.json", measured_with={})


def renamed_layers(root):
    tensors = {key.replace("layer", "floor"): tensor for key, tensor in load_file(weights(root)).items()}
    save_file(tensors, weights(root))


ROLLBACK = "routerretriever experts rollback {root} 1"


@pytest.mark.parametrize(
    ("damage", "severity", "check", "subject", "message", "fix"),
    [
        (lambda r: change(weights(r), torch.zeros_like), "error", "silent", "e1", "LoRA delta is zero", ROLLBACK),
        (lambda r: change(weights(r), lambda t: t * torch.nan), "error", "silent", "e1", "not finite", ROLLBACK),
        (renamed_layers, "error", "expert", "e1", "not a linear layer", ROLLBACK),
        (lambda r: weights(r).write_bytes(b"x"), "error", "expert", "e1", "is damaged", ROLLBACK),
        (lambda r: shutil.rmtree(r / "experts" / "e1"), "error", "expert", "e1", "not a PEFT adapter", ROLLBACK),
        (lambda r: weights(r).unlink(), "error", "files", "experts/e1/adapter_model.safetensors", "is missing", ROLLBACK),
        (another, "error", "stale", "e1", "another version", "routerretriever library {root} COLLECTION… (COLLECTION…: the folders or hub names of 'c', 'd')"),
        (another, "warning", "files", "experts/e1/adapter_model.safetensors", "not what was saved", ROLLBACK),
        (lambda r: change(r / "model.safetensors", lambda t: t + 0.01), "error", "base", "base", "fingerprint", "Restore"),
        (lambda r: (r / "model.safetensors").write_bytes(b"x"), "error", "base", "base", "cannot be loaded", "Restore"),
        (copied, "warning", "duplicate", "copy", "that of 'e0' (cosine 1.000)", "experts remove {root} copy"),
        (copied, "warning", "coverage", "copy", "never measured anywhere", "routerretriever library {root} COLLECTION… (COLLECTION…: the folders or hub names of 'c', 'd')"),
        (never_winning, "warning", "coverage", "e2", "never wins", "experts remove {root} e2"),
        (without_library, "warning", "library", "library", "no pilot library", "routerretriever library {root}"),
        (lambda r: (r / "pilots.safetensors").write_bytes(b"x"), "error", "library", "pilots.json", "damaged", ROLLBACK),
        (lambda r: rewrite(r / "pilots.json", base_fingerprint="0" * 32), "error", "library", "pilots.json", "another base", ROLLBACK),
        (stray, "warning", "stray", "old", "not listed in the model", "experts add {root}"),
        (before_versions, "note", "stale", "e0", "not recorded", "routerretriever library {root} COLLECTION…"),
        (lambda r: (r / "history/log.jsonl").write_text("{"), "error", "history", "log", "line 1 is damaged", "saved"),
        (lambda r: shutil.rmtree(r / "history"), "note", "history", "log", "no history", "next save"),
    ],
)  # fmt: skip
def test_each_fault_is_found_and_has_a_fix(saved, damage, severity, check, subject, message, fix):
    assert diagnose(saved) == []
    damage(saved)
    found = [f for f in diagnose(saved) if (f.check, f.subject) == (check, subject)]
    assert found, diagnose(saved)
    assert found[0].severity == severity
    assert message in found[0].message
    assert fix.format(root=saved) in found[0].fix


def test_too_few_queries_are_a_warning(made):
    findings = diagnose(made)
    assert [(f.severity, f.check, f.subject) for f in findings] == [
        ("warning", "coverage", "c"),
        ("warning", "coverage", "d"),
    ]
    assert "Only 12 held-out queries" in findings[0].message


def test_what_doctor_advises_helps(saved):
    weights(saved).write_bytes(b"x")
    shutil.rmtree(saved / "experts" / "e2")
    fix = next(f.fix for f in diagnose(saved) if f.check == "files")
    assert f"experts rollback {saved} 1" in fix
    run("experts", "rollback", saved, "1")
    assert diagnose(saved) == []
    assert list(load(saved).experts) == ["e0", "e1", "e2"]


@pytest.fixture(scope="module")
def measurable(checkpoint, tmp_path_factory):
    """A model whose collections lie beside it, under other names than their folders."""
    root = tmp_path_factory.mktemp("measurable")
    make = collection_maker(root / "data")
    folders = [make(name, shift) for shift, name in ((1, "c"), (2, "d"))]
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    for number in range(3):
        model.add_expert(f"e{number}", random_adapter(model.encoder.lora_layers, number))
    model.build_library([Collection.load(folder) for folder in folders])
    for name, gains in (("e0", (-0.1, -0.1)), ("e1", (0.3, -0.1)), ("e2", (-0.1, 0.3))):
        model.set_gains(name, dict(zip("cd", gains, strict=True)))
    model.save_pretrained(root / "my model")
    return root


def followed(fix, root):
    """The command of a fix, run with its placeholders filled in as it says."""
    command = re.search(r"routerretriever [^;(]*", fix).group().strip()
    folders = [str(root.parent / "data" / name) for name in re.findall(r"'(\w+)'", fix) or ("c", "d")]
    words = []
    for word in shlex.split(command):
        filled = {"COLLECTION…": folders, "COPY": [str(root.parent / "COPY")]}
        if word == "COLLECTION":  # once for each
            words += [folders[0], *(part for folder in folders[1:] for part in ("--collection", folder))]
        else:
            words += filled.get(word, [word])
    run(*words[1:])


def out_of_the_way(root):
    shutil.copytree(root / "experts" / "e0", root.parent / "COPY")
    stray(root)


@pytest.mark.parametrize(
    ("damage", "check", "subject"),
    [
        (lambda r: change(weights(r), torch.zeros_like), "silent", "e1"),
        (lambda r: change(weights(r), lambda t: t * torch.nan), "silent", "e1"),
        (lambda r: weights(r).write_bytes(b"x"), "expert", "e1"),
        (lambda r: shutil.rmtree(r / "experts" / "e1"), "expert", "e1"),
        (lambda r: weights(r).unlink(), "files", "experts/e1/adapter_model.safetensors"),
        (another, "stale", "e1"),
        (another, "files", "experts/e1/adapter_model.safetensors"),
        (before_versions, "stale", "e0"),
        (copied, "duplicate", "copy"),
        (copied, "coverage", "copy"),
        (never_winning, "coverage", "e2"),
        (without_library, "library", "library"),
        (lambda r: (r / "pilots.safetensors").write_bytes(b"x"), "library", "pilots.json"),
        (lambda r: rewrite(r / "pilots.json", base_fingerprint="0" * 32), "library", "pilots.json"),
        (out_of_the_way, "stray", "old"),
    ],
)
def test_each_fix_makes_its_finding_go_away(measurable, tmp_path, monkeypatch, damage, check, subject):
    monkeypatch.setattr(doctor, "FEW_QUERIES", 5)
    root = shutil.copytree(measurable, tmp_path / "all") / "my model"
    assert [(f.check, f.subject) for f in diagnose(root)] == [("coverage", "e0")]  # it never wins
    damage(root)
    (found,) = [f for f in diagnose(root) if (f.check, f.subject) == (check, subject)]
    followed(found.fix, root)
    left = diagnose(root)
    assert (check, subject) not in [(f.check, f.subject) for f in left]
    assert not [f for f in left if f.severity == "error"]
    load(root)


def test_more_queries_make_a_collection_count(measurable, tmp_path):
    root = shutil.copytree(measurable, tmp_path / "all") / "my model"
    first, _ = [f for f in diagnose(root) if "Only" in f.message]
    assert first.subject == "c"
    shutil.rmtree(root.parent / "data" / "c")
    words = {f"{n}": f"word{n} word{n + 1}" for n in range(60)}
    qrels = {"train": {"t": {"0": 1}}, "dev": {n: {n: 1} for n in words}}
    write_beir(root.parent / "data" / "c", words, words | {"t": "word150"}, qrels)
    followed(first.fix, root)
    assert [f.subject for f in diagnose(root) if f.check == "coverage" and "Only" in f.message] == ["d"]


def test_an_expert_is_taken_from_before_its_damage_was_saved(measurable, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "FEW_QUERIES", 5)
    root = shutil.copytree(measurable, tmp_path / "all") / "my model"
    model = load(root)
    zero = {layer: (a, b * 0) for layer, (a, b) in model.state.experts["e1"].factors.items()}
    model.state = replace(model.state, experts={**model.state.experts, "e1": Adapter(zero, 0.05)})
    model.save_experts(root)
    (silent,) = [f for f in diagnose(root) if f.check == "silent"]
    assert "rollback" in silent.fix and silent.fix.split(";")[0].endswith(" 1")
    followed(silent.fix, root)
    assert [f.check for f in diagnose(root)] == ["coverage"]


def test_the_history_begins_again(saved):
    (saved / "history/log.jsonl").write_text("{")
    (found,) = [f for f in diagnose(saved) if f.check == "history"]
    assert "move the folder 'history' away" in found.message
    (saved / "history").rename(saved.parent / "away")
    assert [f.check for f in diagnose(saved)] == ["history"]  # a note: the next save starts one
    run("experts", "rename", saved, "e0", "f0")
    assert diagnose(saved) == []


def test_measuring_again_forgets_gains_of_another_version(saved):
    from routerretriever.routing.form_pilots import without_stale

    another(saved)
    model = load(saved)
    renewed = without_stale(model.library, model.state.versions)
    assert renewed.experts == ("e0", "e2")
    assert np.isnan(renewed.with_experts(("e0", "e1", "e2")).gains[:, 1]).all()


def test_the_command(saved, tmp_path):
    assert "Nothing is wrong" in run("doctor", saved).stdout
    assert run_json("doctor", saved) == {"findings": []}
    weights(saved).write_bytes(b"x")
    shown = run("doctor", saved, code=1).stdout
    assert "error expert, e1:" in shown and "experts rollback" in shown
    findings = run_json("doctor", saved, code=1)["findings"]
    assert findings[0]["severity"] == "error" and {"check", "subject", "message", "fix"} < set(findings[0])
    with pytest.raises(FormatError, match="not a RouterRetriever model"):
        diagnose(tmp_path)
    assert run_json("doctor", tmp_path, code=1)["error"]["type"] == "FormatError"
