"""What an engine cannot be used for is refused by name, and says whether torch would do."""

import json
import logging
import shutil

import pytest
from models import TEXTS, with_experts, with_library
from tiny import make_checkpoint, random_adapter

from routerretriever import RouterRetriever, compile_model, open_model
from routerretriever.engine.compiled_model import CompiledModel
from routerretriever.engine.engine_info import ENGINE_INFO
from routerretriever.errors import EngineError, ExpertError, FormatError, ModelError, SilentExpertError


@pytest.fixture(scope="module")
def saved(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled") / "model"
    with_library(with_experts(checkpoint, n=3, kinds=("lora", "both"))).save_pretrained(folder)
    compile_model(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def change(folder, **fields):
    path = folder / "engine" / ENGINE_INFO
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refused(folder, message):
    with pytest.raises(EngineError, match=message):
        open_model(folder, engine="onnx")


def test_no_engine(checkpoint, tmp_path):
    with_experts(checkpoint, n=1).save_pretrained(tmp_path / "model")
    refused(
        tmp_path / "model", "no compiled engine.*Where torch is installed.*compiled: routerretriever compile"
    )
    assert isinstance(open_model(tmp_path / "model", device="cpu"), RouterRetriever)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fingerprint": "0" * 32}, "is stale: .* another base"),
        ({"branch_layer": 1}, "is stale"),
        ({"format_version": 99}, "has format 99; this version reads format 1"),
        ({"dimension": "many"}, "damaged: 'dimension' is 'many'"),
        ({"layers": {"x": {}}}, "damaged: 'layers.x"),
    ],
)
def test_an_engine_of_something_else(folder, caplog, fields, message):
    change(folder, **fields)
    refused(folder, f"{message}.*routerretriever compile MODEL")
    with caplog.at_level(logging.WARNING):
        assert isinstance(open_model(folder, device="cpu"), RouterRetriever)
    assert "Until then torch is used" in caplog.text
    assert compile_model(folder).written
    assert isinstance(open_model(folder), CompiledModel)


@pytest.mark.parametrize("name", ["lower.onnx", "upper.bin", "adapted.onnx", "tokenizer.json"])
def test_a_file_that_was_cut_short_or_is_missing(folder, name):
    path = folder / "engine" / name
    path.write_bytes(path.read_bytes()[:-10])
    refused(folder, f"{name} was cut short: it has .* bytes of")
    path.unlink()
    refused(folder, f"has no {name}")


@pytest.mark.parametrize("name", ["lower.onnx", "tokenizer.json"])
def test_a_file_of_other_content(folder, name):
    path = folder / "engine" / name
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(
        EngineError, match="cannot be (run by ONNX Runtime|read).*routerretriever compile MODEL"
    ):
        open_model(folder, engine="onnx").encode_query("word1")


def test_a_description_that_is_no_json(folder):
    (folder / "engine" / ENGINE_INFO).write_text("{")
    refused(folder, "engine.json is damaged")


def test_what_no_engine_has(folder):
    with pytest.raises(ModelError, match="no engine 'tpu'"):
        open_model(folder, engine="tpu")
    with pytest.raises(FormatError, match="no model at"):
        open_model(folder.parent / "nothing")
    with pytest.raises(EngineError, match="does not encode documents in int8.*engine='torch'"):
        open_model(folder, engine="onnx").embed_texts(["a"], precision="int8")


def test_an_accelerator_needs_torch(folder):
    assert isinstance(open_model(folder, device="cpu"), CompiledModel)
    assert isinstance(open_model(folder, engine="torch", device="cpu"), RouterRetriever)
    assert isinstance(RouterRetriever.from_pretrained(folder, device="cpu"), RouterRetriever)
    assert isinstance(RouterRetriever.from_pretrained(folder, engine="auto"), CompiledModel)


def test_a_base_that_cannot_be_exported(checkpoint, tmp_path, monkeypatch):
    import torch

    folder = tmp_path / "model"
    RouterRetriever.create(str(checkpoint), device="cpu").half().save_pretrained(folder)
    with pytest.raises(EngineError, match="stored in float16; .*With torch the model can be used as it is"):
        compile_model(folder)

    shutil.rmtree(folder)
    with_experts(checkpoint, n=1).save_pretrained(folder)

    def fails(*args, **kwargs):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(EngineError, match="BertModel. cannot be exported .*no such operator.*With torch"):
        compile_model(folder)
    assert not (folder / "engine").exists()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_graph_that_computes_something_else(checkpoint, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    with_experts(checkpoint, n=1).save_pretrained(folder)
    monkeypatch.setattr(
        "routerretriever.engine.same_results.TOLERANCE", 1e-12
    )  # as if the graph were less exact than it is
    with pytest.raises(EngineError, match="computes other .* than the base.*With torch"):
        compile_model(folder)
    assert not (folder / "engine").exists()


# -- what comes and goes beside the engine -------------------------------------------------------------


def test_experts_and_pilots_change_without_compiling_again(folder):
    before = (folder / "engine" / ENGINE_INFO).stat().st_ino
    model = RouterRetriever.from_pretrained(folder, device="cpu")
    model.remove_expert("e0")
    model.add_expert("new", random_adapter(model.encoder.lora_layers, 77, rank=9))
    model.set_policy(margin=0.3)
    model.save_experts(folder)
    assert not compile_model(folder).written
    assert (folder / "engine" / ENGINE_INFO).stat().st_ino == before
    opened = open_model(folder, engine="onnx")
    assert list(opened.experts) == ["e1", "e2", "new"]
    assert opened.encode_routed(TEXTS).experts == model.encode_routed(TEXTS).experts
    for name in opened.experts:
        assert (
            abs(opened.encode_query(TEXTS, expert=name) - model.encode_query(TEXTS, expert=name)).max() < 1e-4
        )


def test_an_engine_changes_the_experts_of_a_saved_model(folder):
    opened = open_model(folder, engine="onnx")
    other = RouterRetriever.from_pretrained(folder, device="cpu")
    opened.add_expert("new", other.state.experts["e1"].detached().mapped(lambda factor: factor.numpy() * 2))
    opened.remove_expert("e0")
    opened.set_gains("new", {"c": 0.5})
    opened.save_experts(folder)
    by_torch = RouterRetriever.from_pretrained(folder, device="cpu")
    assert by_torch.state.versions == opened.state.versions
    assert by_torch.encode_routed(TEXTS).experts == opened.encode_routed(TEXTS).experts
    assert abs(by_torch.encode_query(TEXTS) - opened.encode_query(TEXTS)).max() < 1e-4


def test_an_expert_that_does_not_fit_or_changes_nothing(folder):
    opened = open_model(folder, engine="onnx")
    adapter = opened.state.experts["e0"]
    with pytest.raises(SilentExpertError, match="'zero' changes no query vector"):
        opened.add_expert("zero", adapter.mapped(lambda factor: factor * 0))
    with pytest.raises(ExpertError, match="does not fit layer"):
        opened.add_expert("wide", adapter.mapped(lambda factor: factor.repeat(2, axis=0).repeat(2, axis=1)))
    with pytest.raises(ExpertError, match="no expert 'nobody'"):
        opened.encode_query("word1", expert="nobody")
    assert list(opened.experts) == ["e0", "e1", "e2"]


def test_another_base_in_the_same_folder_makes_the_engine_stale(folder, tmp_path):
    other = make_checkpoint(tmp_path / "other", "roberta")
    with_experts(other, n=1).save_pretrained(folder)
    refused(folder, "is stale")
