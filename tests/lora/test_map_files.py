"""Maps on disk."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny import random_adapter
from torch import nn

from routerretriever.errors import ExpertError
from routerretriever.lora.adapter import VECTOR_MAP, Adapter, Kind
from routerretriever.lora.expert_files import base_of, is_expert, load_expert, save_expert
from routerretriever.lora.map_files import MAP_INFO, MAP_WEIGHTS
from routerretriever.lora.peft_files import ADAPTER_CONFIG

LAYERS = {"encoder.layer.0.dense": nn.Linear(6, 4), VECTOR_MAP: nn.Linear(8, 8)}


def adapter_of(kind):
    whole = random_adapter(LAYERS, 1)
    if kind == Kind.LORA:
        return whole.layers
    return whole if kind == Kind.BOTH else Adapter({VECTOR_MAP: whole.factors[VECTOR_MAP]}, whole.scaling)


@pytest.fixture
def folder(tmp_path):
    save_expert(adapter_of(Kind.MAP), tmp_path / "expert", base="some/base", revision=None)
    return tmp_path / "expert"


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_comes_back_and_is_the_same_bytes_again(kind, tmp_path):
    adapter = adapter_of(kind)
    for name in ("one", "two"):
        save_expert(adapter, tmp_path / name, base="some/base", revision=None)
    loaded = load_expert(tmp_path / "one", LAYERS)
    assert loaded.kind == kind and loaded.fingerprint == adapter.fingerprint
    assert base_of(tmp_path / "one") == "some/base"
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert (ADAPTER_CONFIG in files) == (kind != Kind.MAP)
    assert (MAP_INFO in files) == (kind != Kind.LORA)


def test_a_folder_without_weights_is_no_expert(folder, tmp_path):
    assert is_expert(folder) and not is_expert(tmp_path)
    with pytest.raises(ExpertError, match=ADAPTER_CONFIG):
        load_expert(tmp_path, LAYERS)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "cannot be read"),
        ("[]", "does not describe a map"),
        (json.dumps({"format_version": 99}), "Upgrade"),
        (json.dumps({"format_version": 1, "rank": 4, "dimension": 9}), "dimension 9"),
    ],
)
def test_a_damaged_description_is_named(folder, content, named):
    (folder / MAP_INFO).write_text(content)
    with pytest.raises(ExpertError, match=named):
        load_expert(folder, LAYERS)


def test_damaged_weights_are_named(folder):
    (folder / MAP_WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(ExpertError, match="is damaged"):
        load_expert(folder, LAYERS)
    save_file({"W": torch.eye(8)}, str(folder / MAP_WEIGHTS))
    with pytest.raises(ExpertError, match="W instead of the factors A and B"):
        load_expert(folder, LAYERS)
    (folder / MAP_WEIGHTS).unlink()
    with pytest.raises(ExpertError, match=f"has no {MAP_WEIGHTS}"):
        load_expert(folder, LAYERS)
