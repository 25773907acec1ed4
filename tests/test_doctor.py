import json
import shutil

import numpy as np
import pytest
import torch
from conftest import random_adapter
from safetensors.torch import load_file, save_file
from test_cli import run, run_json
from test_history import load, with_library

from routerretriever import RouterRetriever, doctor
from routerretriever.doctor import examine
from routerretriever.errors import FormatError
from routerretriever.lora import Adapter, save_adapter


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
    model.add_expert("copy", Adapter(model.encoder.experts["e0"].factors, 0.7))
    model.save_experts(root)


def without_library(root):
    model = load(root)
    model.encoder.policy = None
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
        (lambda r: change(weights(r), torch.zeros_like), "error", "silent", "e1", "update is zero", ROLLBACK),
        (lambda r: change(weights(r), lambda t: t * torch.nan), "error", "silent", "e1", "not finite", ROLLBACK),
        (renamed_layers, "error", "expert", "e1", "not a linear layer", ROLLBACK),
        (lambda r: weights(r).write_bytes(b"x"), "error", "expert", "e1", "is damaged", ROLLBACK),
        (lambda r: shutil.rmtree(r / "experts" / "e1"), "error", "expert", "e1", "not a PEFT adapter", ROLLBACK),
        (lambda r: weights(r).unlink(), "error", "files", "experts/e1/adapter_model.safetensors", "is missing", ROLLBACK),
        (another, "error", "stale", "e1", "another version", "routerretriever library {root} c d"),
        (another, "warning", "files", "experts/e1/adapter_model.safetensors", "not what was saved", ROLLBACK),
        (lambda r: change(r / "model.safetensors", lambda t: t + 0.01), "error", "base", "base", "fingerprint", "Restore"),
        (lambda r: (r / "model.safetensors").write_bytes(b"x"), "error", "base", "base", "cannot be loaded", "Restore"),
        (copied, "warning", "duplicate", "copy", "that of 'e0' (cosine 1.000)", "experts remove {root} copy"),
        (copied, "warning", "coverage", "copy", "never measured anywhere", "routerretriever library {root} c d"),
        (never_winning, "warning", "coverage", "e2", "never wins", "experts remove {root} e2"),
        (without_library, "warning", "library", "library", "no pilot library", "routerretriever library {root}"),
        (lambda r: (r / "pilots.safetensors").write_bytes(b"x"), "error", "library", "pilots.json", "damaged", "library {root}"),
        (lambda r: rewrite(r / "pilots.json", base_fingerprint="0" * 32), "error", "library", "pilots.json", "another base", "library {root}"),
        (stray, "warning", "stray", "old", "does not know", "experts add {root}"),
        (before_versions, "note", "stale", "e0", "not recorded", "routerretriever library {root} c d"),
        (lambda r: (r / "history/log.jsonl").write_text("{"), "error", "history", "log", "line 1 is damaged", "saved"),
        (lambda r: shutil.rmtree(r / "history"), "note", "history", "log", "no history", "next save"),
    ],
)  # fmt: skip
def test_each_fault_is_found_and_has_a_fix(saved, damage, severity, check, subject, message, fix):
    assert examine(saved) == []
    damage(saved)
    found = [f for f in examine(saved) if (f.check, f.subject) == (check, subject)]
    assert found, examine(saved)
    assert found[0].severity == severity
    assert message in found[0].message
    assert fix.format(root=saved) in found[0].fix


def test_too_few_queries_are_a_warning(made):
    findings = examine(made)
    assert [(f.severity, f.check, f.subject) for f in findings] == [
        ("warning", "coverage", "c"),
        ("warning", "coverage", "d"),
    ]
    assert "Only 12 held-out queries" in findings[0].message


def test_what_doctor_advises_helps(saved):
    weights(saved).write_bytes(b"x")
    shutil.rmtree(saved / "experts" / "e2")
    fix = next(f.fix for f in examine(saved) if f.check == "files")
    assert f"experts rollback {saved} 1" in fix
    run("experts", "rollback", saved, "1")
    assert examine(saved) == []
    assert list(load(saved).experts) == ["e0", "e1", "e2"]


def test_measuring_again_forgets_gains_of_another_version(saved):
    from routerretriever.library import versions_of, without_stale

    another(saved)
    model = load(saved)
    renewed = without_stale(model.library, versions_of(model))
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
        examine(tmp_path)
    assert run_json("doctor", tmp_path, code=1)["error"]["type"] == "FormatError"
