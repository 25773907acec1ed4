"""Queries in 8 bits: near to fp32, the same in any batch, with documents as they were."""

import json
import shutil

import numpy as np
import pytest
from commands import run, run_json
from models import TEXTS, with_experts, with_library
from onnx_files import export_onnx
from tiny import make_checkpoint, random_adapter

from routerretriever import Index, RouterRetriever, compile_model, open_model
from routerretriever.engine.engine_info import ENGINE_INFO
from routerretriever.errors import EngineError
from routerretriever.kernels.vectors import unit_rows


@pytest.fixture(scope="module")
def fp32(tmp_path_factory):
    base = make_checkpoint(tmp_path_factory.mktemp("base"))
    model = with_library(with_experts(base, n=3, kinds=("lora", "map", "both")))
    folder = tmp_path_factory.mktemp("compiled") / "fp32"
    model.save_pretrained(folder)
    assert compile_model(folder).precision == "fp32"
    return folder


@pytest.fixture(scope="module")
def int8(fp32):
    folder = shutil.copytree(fp32, fp32.parent / "int8")
    done = compile_model(folder, precision="int8")
    assert done.written and done.precision == "int8"
    return folder


def least_cosine(a, b):
    return float((unit_rows(a) * unit_rows(b)).sum(axis=1).min())


def test_vectors_are_near_and_differ(fp32, int8):
    exact, rounded = open_model(fp32, engine="onnx"), open_model(int8, engine="onnx")
    for candidate in exact.state.candidates:
        wanted = exact.encode_query(TEXTS, expert=candidate)
        found = rounded.encode_query(TEXTS, expert=candidate)
        assert least_cosine(wanted, found) > 0.98
        assert abs(wanted - found).max() > 1e-5


def test_a_query_does_not_depend_on_those_beside_it(int8):
    model = open_model(int8, engine="onnx")
    experts = [*model.state.candidates] * 4
    queries = [*TEXTS][: len(experts)]
    together = model.encode_routed(queries, experts[: len(queries)]).vectors
    for query, expert, vector in zip(queries, experts, together, strict=False):
        assert abs(model.encode_query(query, expert=expert) - vector).max() < 1e-5


def test_documents_stay_in_fp32(fp32, int8):
    exact, rounded = open_model(fp32, engine="onnx"), open_model(int8, engine="onnx")
    assert np.array_equal(rounded.encode_document(TEXTS), exact.encode_document(TEXTS))
    assert rounded.documents_fingerprint == exact.documents_fingerprint


def test_documents_in_eight_bits_are_asked_for(fp32, int8):
    exact, rounded = open_model(fp32, engine="onnx"), open_model(int8, engine="onnx")
    wanted = exact.embed_texts(TEXTS)
    found = rounded.embed_texts(TEXTS, precision="int8")
    assert 0.98 < least_cosine(wanted, found) < 1 - 1e-7
    assert np.array_equal(rounded.embed_texts(TEXTS, precision="int8"), found)
    assert np.array_equal(rounded.embed_texts(TEXTS, precision="auto"), wanted), "each precision has a cache"
    with pytest.raises(
        EngineError, match="not encode documents in int8. Compile the model with --precision int8"
    ):
        exact.embed_texts(TEXTS, precision="int8")
    with pytest.raises(EngineError, match="not encode documents in bf16. Choose fp32 or auto"):
        rounded.embed_texts(TEXTS, precision="bf16")


def test_an_index_of_documents_in_eight_bits(int8, fp32, tmp_path):
    lines = [json.dumps({"_id": str(row), "text": text}) for row, text in enumerate(dict.fromkeys(TEXTS))]
    (tmp_path / "d.jsonl").write_text("\n".join(lines) + "\n")

    def vectors(model, *options):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        run("index", "add", model, folder, tmp_path / "d.jsonl", "--collection", "d", *options)
        return np.stack(list(Index.open(folder).lookup(map(str, range(len(lines)))).values()))

    exact = vectors(int8)
    by_engine = vectors(int8, "--precision", "int8")
    assert abs(by_engine - exact).max() > 1e-5 and least_cosine(by_engine, exact) > 0.98
    by_torch = vectors(fp32, "--precision", "int8")  # this engine cannot, so auto takes torch
    assert abs(by_torch - exact).max() > 1e-5 and least_cosine(by_torch, exact) > 0.98


def test_an_engine_keeps_its_precision_until_another_is_asked_for(int8, tmp_path):
    folder = shutil.copytree(int8, tmp_path / "model")
    assert not compile_model(folder).written
    assert compile_model(folder, again=True).precision == "int8"
    assert compile_model(folder, precision="fp32").written
    assert not (folder / "engine" / "int8").exists()


def test_a_damaged_engine_is_compiled_again_as_it_was(int8, tmp_path):
    folder = shutil.copytree(int8, tmp_path / "model")
    (folder / "engine" / "int8" / "lower.bin").write_bytes(b"")
    assert compile_model(folder).precision == "int8"


def test_the_command_says_the_precision(fp32, tmp_path):
    folder = shutil.copytree(fp32, tmp_path / "model")
    assert "queries in fp32" in run("compile", folder).output
    assert "queries in int8" in run("compile", folder, "--precision", "int8").output
    found = run_json("compile", folder)
    assert found["precision"] == "int8" and not found["written"]


def test_an_expert_comes_without_compiling_again(int8, tmp_path):
    folder = shutil.copytree(int8, tmp_path / "model")
    model = RouterRetriever.from_pretrained(folder, device="cpu", engine="torch")
    model.add_expert("another", random_adapter(model.encoder.adapted_layers, 9, rank=3))
    model.save_pretrained(folder)
    wanted = model.encode_query(TEXTS, expert="another")
    assert (
        least_cosine(wanted, open_model(folder, engine="onnx").encode_query(TEXTS, expert="another")) > 0.98
    )


@pytest.mark.parametrize("name", ["lower.onnx", "upper.bin", "adapted.bin"])
def test_a_file_that_was_cut_short_or_is_missing(int8, tmp_path, name):
    folder = shutil.copytree(int8, tmp_path / "model")
    path = folder / "engine" / "int8" / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(EngineError, match=f"int8/{name} was cut short"):
        open_model(folder, engine="onnx")
    path.unlink()
    with pytest.raises(EngineError, match=f"has no int8/{name}"):
        open_model(folder, engine="onnx")


def test_what_is_no_precision(int8, tmp_path):
    folder = shutil.copytree(int8, tmp_path / "model")
    with pytest.raises(EngineError, match="no precision 'int4'. Choose one of: fp32, int8"):
        compile_model(folder, precision="int4")
    path = folder / "engine" / ENGINE_INFO
    path.write_text(json.dumps({**json.loads(path.read_text()), "precision": "int4"}))
    with pytest.raises(EngineError, match="damaged: 'precision' is 'int4'.*routerretriever compile MODEL"):
        open_model(folder, engine="onnx")


def test_a_base_that_is_an_onnx_file_runs_as_it_is(tmp_path):
    base = export_onnx(make_checkpoint(tmp_path / "base", pooling="cls"), tmp_path / "onnx")
    RouterRetriever.create(str(base), device="cpu").save_pretrained(tmp_path / "model")
    with pytest.raises(EngineError, match="is an ONNX file, which is run as it is.*--precision fp32"):
        compile_model(tmp_path / "model", precision="int8")


def test_a_base_that_8_bits_would_change_too_much(tmp_path):
    """Weights of very different size in one column leave nothing of the small ones."""
    base = make_checkpoint(tmp_path / "base")
    model = RouterRetriever.create(str(base), device="cpu")
    for layer in model.encoder.lora_layers.values():
        layer.weight.data[:, 0] *= 3e4
    model.save_pretrained(tmp_path / "changed")
    compile_model(tmp_path / "changed")
    with pytest.raises(EngineError, match="too far from those in fp32 .cosine.*--precision fp32"):
        compile_model(tmp_path / "changed", precision="int8")
    assert open_model(tmp_path / "changed", engine="onnx").info.precision == "fp32"
