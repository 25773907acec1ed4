"""Adapters of PEFT: what is read encodes as in PEFT, and everything else is refused by name."""

import shutil

import pytest
import torch
from models import TEXTS
from peft import LoraConfig
from peft_adapters import change_tensors, peft_adapter, peft_vectors, rewrite_options

from routerretriever import RouterRetriever, add_expert
from routerretriever.errors import ExpertError, FormatError
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.peft_files import load_adapter

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::RuntimeWarning", "ignore::peft.utils.warning.PeftWarning"
)
QUERY_2 = "encoder.layer.2.attention.self.query"
APPLIED = {
    "defaults": {},
    "alpha": {"lora_alpha": 3},
    "rslora": {"use_rslora": True, "lora_alpha": 3},
    "patterns": {"rank_pattern": {"query": 2}, "alpha_pattern": {"value": 7}},
    "regular expressions": {
        "rank_pattern": {r"layer\.[23]\.attention\.self\.value": 3},
        "alpha_pattern": {r"2\..*\.query": 5},
    },
    "a pattern from the start": {"alpha_pattern": {f"^{QUERY_2}": 5}},
    "the first of two": {"alpha_pattern": {"self.query": 3, "query": 9}},
    "the other first": {"alpha_pattern": {"query": 9, "self.query": 3}},
    "a part of a name": {"alpha_pattern": {"uery": 9, "lue": 5}},
    "patterns with rslora": {"use_rslora": True, "rank_pattern": {"value": 2}, "alpha_pattern": {"query": 9}},
    "targets by expression": {
        "target_modules": r".*layer\.[23]\.attention\.self\.(query|key)",
        "layers_to_transform": None,
    },
    "excluded": {"target_modules": ["query", "value", "key"], "exclude_modules": ["value"]},
    "one layer": {"layers_to_transform": 3, "layers_pattern": "layer"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "without effect": {"fan_in_fan_out": True, "lora_dropout": 0.1, "task_type": "FEATURE_EXTRACTION"},
}
REFUSED = {
    "lora_bias": True,
    "init_lora_weights": "pissa",
    "use_dora": True,
    "bias": "lora_only",
    "modules_to_save": ["LayerNorm"],
    "trainable_token_indices": [3, 4],
    "alora_invocation_tokens": [3],
    "layer_replication": [[0, 4]],
    "target_parameters": ["query.weight"],
    "megatron_config": {"a": 1},
    "use_qalora": True,
    "kasa_config": {"alpha": 1.0},
    "peft_type": "IA3",
    "an_option_of_tomorrow": "on",
}


@pytest.fixture(scope="module")
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


@pytest.fixture(scope="module")
def plain(checkpoint, tmp_path_factory):
    return peft_adapter(tmp_path_factory.mktemp("peft") / "plain", checkpoint, "tiny")


@pytest.fixture
def folder(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "adapter")


def encoded(model, folder):
    add_expert(model, folder, "imported", trust_base=True)
    vectors = model.encode_query(TEXTS, expert="imported")
    model.remove_expert("imported")
    return vectors


@pytest.mark.parametrize("options", APPLIED.values(), ids=APPLIED)
def test_what_is_read_encodes_as_in_peft(model, checkpoint, tmp_path, options):
    folder = peft_adapter(tmp_path / "adapter", checkpoint, **options)
    wanted = peft_vectors(folder, checkpoint, model.preprocess(TEXTS))
    assert abs(encoded(model, folder) - wanted.numpy()).max() < 1e-5


@pytest.mark.parametrize(("option", "value"), [*REFUSED.items(), ("init_lora_weights", "olora")])
def test_other_options_are_refused_by_name(model, folder, option, value):
    rewrite_options(folder, **{option: value})
    with pytest.raises(ExpertError, match=f"{option}=.*is not supported"):
        add_expert(model, folder, trust_base=True)


def test_what_older_and_newer_versions_write_by_default_is_read(model, folder, checkpoint):
    wanted = encoded(model, folder)
    unset = {"enable_lora": None, "merge_weights": False, "loftq_config": {}, "an_option_of_tomorrow": []}
    kept = (
        "peft_type",
        "base_model_name_or_path",
        "r",
        "lora_alpha",
        "target_modules",
        "layers_to_transform",
        "bias",
    )
    rewrite_options(folder, **unset)
    assert (encoded(model, folder) == wanted).all()
    rewrite_options(folder, **{key: ... for key in LoraConfig().to_dict() if key not in kept})
    assert (encoded(model, folder) == wanted).all()
    rewrite_options(folder, target_modules=None, bias=None, layers_to_transform=None)
    assert (encoded(model, folder) == wanted).all()


@pytest.mark.parametrize(
    ("options", "tensor"),
    [
        ({"target_modules": ["query", "word_embeddings"], "layers_to_transform": None}, "lora_embedding_A"),
        ({"embeddings": True}, "word_embeddings.weight"),
        ({"modules_to_save": ["pooler"]}, r"pooler.dense.(weight|bias)"),
        ({"trainable_token_indices": [3, 4]}, "token_adapter"),
        ({"lora_bias": True}, "lora_B.bias"),
        ({"use_dora": True}, "lora_magnitude_vector"),
    ],
)
def test_tensors_that_are_no_factors_are_refused_by_name(model, checkpoint, tmp_path, options, tensor):
    """Also where the option that explains them is missing."""
    folder = peft_adapter(tmp_path / "adapter", checkpoint, **options)
    hidden = {
        key: ... for key in options if key not in ("target_modules", "layers_to_transform", "embeddings")
    }
    rewrite_options(folder, **hidden)
    with pytest.raises(ExpertError, match=f"holds '.*{tensor}.*', which is no LoRA factor"):
        add_expert(model, folder, trust_base=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 8}, "factors of rank 4 for .* says rank 8"),
        ({"rank_pattern": {"query": 2}}, f"rank 4 for '{QUERY_2}'.* says rank 2"),
        ({"target_modules": ["key"]}, "says that it has none"),
        ({"layers_to_transform": [3]}, "layer.2.* says that it has none"),
        ({"alpha_pattern": {"(": 3}}, "no regular expression"),
        ({"target_modules": ".*query", "layers_to_transform": [2]}, "cannot be used by PEFT"),
    ],
)
def test_options_that_contradict_the_tensors(folder, model, options, message):
    rewrite_options(folder, **options)
    with pytest.raises(ExpertError, match=message):
        load_adapter(folder, model.encoder.lora_layers)


def test_a_layer_is_changed_once_and_pairs_are_whole(folder, model):
    key = f"base_model.model.{QUERY_2}.lora_A.weight"

    def doubled(tensors):
        more = {k.replace("model.encoder", "model.bert.encoder"): t.clone() for k, t in tensors.items()}
        return tensors | more

    change_tensors(folder, doubled)
    with pytest.raises(ExpertError, match="twice"):
        load_adapter(folder, model.encoder.lora_layers)
    change_tensors(folder, lambda tensors: {k: t for k, t in tensors.items() if k != key})
    with pytest.raises(ExpertError, match=r"incomplete: it has .*lora_B.weight but not .*lora_A.weight"):
        load_adapter(folder, model.encoder.lora_layers)
    change_tensors(folder, lambda tensors: {f"{QUERY_2}.lora_A.default.weight": torch.zeros(4, 32)})
    with pytest.raises(ExpertError, match="lora_A.default.weight', which is no LoRA factor"):
        load_adapter(folder, model.encoder.lora_layers)


def test_damaged_files_are_named(folder, model):
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(ExpertError, match="not a JSON object"):
        load_adapter(folder, model.encoder.lora_layers)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ExpertError, match="no peft_type"):
        load_adapter(folder, model.encoder.lora_layers)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lora_alpha", None),
        ("lora_alpha", "8"),
        ("lora_alpha", float("nan")),
        ("r", "4"),
        ("use_rslora", "false"),
        ("rank_pattern", ["query"]),
        ("alpha_pattern", {"query": None}),
        ("target_modules", 5),
        ("layers_to_transform", "2"),
    ],
)
def test_options_of_a_wrong_type_are_refused_by_name(folder, model, option, value):
    rewrite_options(folder, **{option: value})
    with pytest.raises(ExpertError, match=f"adapter_config.json: {option}.*cannot be used"):
        load_adapter(folder, model.encoder.lora_layers)


@pytest.mark.parametrize(
    "change",
    [
        lambda factor: factor.to(torch.int8),
        lambda factor: factor.to(torch.complex64),
        lambda factor: factor[..., None].clone(),
        lambda factor: factor.flatten()[0].clone(),
    ],
    ids=["int8", "complex", "three axes", "none"],
)
def test_factors_are_matrices_of_floating_point_numbers(folder, model, change):
    change_tensors(folder, lambda tensors: {key: change(tensor) for key, tensor in tensors.items()})
    with pytest.raises(ExpertError, match=r"is of type .* and shape .*\. A LoRA factor is a matrix"):
        load_adapter(folder, model.encoder.lora_layers)


@pytest.mark.parametrize(
    ("a", "b"), [((4, 30), (32, 4)), ((4, 32), (30, 4)), ((4, 32), (32, 3))], ids=["in", "out", "rank"]
)
def test_factors_of_another_base_are_refused_at_every_door(folder, model, a, b):
    own = {
        f"base_model.model.{QUERY_2}.lora_{n}.weight": torch.ones(shape) for n, shape in (("A", a), ("B", b))
    }
    change_tensors(folder, lambda tensors: tensors | own)
    message = f"'{QUERY_2}', which have no product|does not fit layer '{QUERY_2}'"
    with pytest.raises(ExpertError, match=message):
        add_expert(model, folder, "other", trust_base=True)
    with pytest.raises(ExpertError, match=message):
        model.add_expert("other", Adapter({QUERY_2: (torch.ones(a), torch.ones(b))}, 1.0))
    with pytest.raises(ExpertError, match="changes 'nowhere', which experts of this model may not change"):
        model.add_expert("other", Adapter({"nowhere": (torch.ones(4, 32), torch.ones(32, 4))}, 1.0))
    assert "other" not in model.experts


def test_damaged_notes_about_an_expert_are_named(folder, model):
    (folder / "expert.json").write_text('{"queries": 5, "base_ndcg": null}')
    with pytest.raises(FormatError, match="expert.json is damaged: 'base_ndcg' is None"):
        add_expert(model, folder, "other", trust_base=True)
