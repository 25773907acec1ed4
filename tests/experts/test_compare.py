import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from models import TEXTS
from tiny import make_checkpoint, random_adapter

from routerretriever import RouterRetriever
from routerretriever.errors import ExpertError, FingerprintError, SilentExpertError
from routerretriever.experts.combine import merge_experts
from routerretriever.experts.compare import diff_experts
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.arithmetic import combine_adapters, cosines
from routerretriever.lora.expert_info import ExpertInfo
from routerretriever.lora.peft_files import load_adapter, save_adapter


@pytest.fixture
def model(checkpoint):
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    for seed, name in enumerate(("a", "b")):
        info = ExpertInfo(name, 10 + seed, 5, 0.5, 0.6 + seed / 10, {"rank": 4, "seed": seed}, {"crops": 3})
        model.add_expert(name, random_adapter(model.encoder.lora_layers, seed, rank=4 - seed), info)
    return model


def dense(adapter, name):
    if name not in adapter.factors:
        return 0.0
    a, b = (torch.as_tensor(factor).double() for factor in adapter.factors[name])
    return adapter.scaling * b @ a


def flat(adapter):
    return torch.cat([dense(adapter, name).flatten() for name in sorted(adapter.factors)])


@pytest.mark.parametrize(
    ("rank", "weights"), [(1, (1.0, 1.0)), (3, (0.7, -0.2)), (5, (1.0, 1.0)), (99, (0.5, 0.5))]
)
def test_a_combined_expert_is_the_truncated_svd_of_the_dense_sum(model, rank, weights):
    first, second = model.state.experts.values()
    name = next(iter(first.factors))
    only = Adapter({key: pair for key, pair in second.factors.items() if key != name}, second.scaling)
    combined = combine_adapters([first, only], weights, rank)
    kept = whole = 0.0
    for layer in first.factors:
        total = weights[0] * dense(first, layer) + weights[1] * dense(only, layer)
        u, values, vt = torch.linalg.svd(total, full_matrices=False)
        wanted = (u[:, :rank] * values[:rank]) @ vt[:rank]
        torch.testing.assert_close(dense(combined.adapter, layer), wanted, atol=1e-5, rtol=1e-5)
        kept, whole = kept + values[:rank].square().sum(), whole + values.square().sum()
    assert combined.kept == pytest.approx(float((kept / whole).sqrt()), abs=1e-9)
    assert (combined.kept < 0.95) == (rank < 5)
    assert combined.rank == min(rank, 7)  # 4 and 3 together


def test_a_combined_expert_is_an_expert_like_any_other(model, tmp_path):
    combined = merge_experts(model, ["a", "b"], "both", rank=7)
    assert combined.kept == pytest.approx(1.0)
    total = Adapter(
        {
            name: (
                torch.cat([x.factors[name][0] for x in model.state.experts.values() if x.rank < 7]),
                torch.cat([x.factors[name][1] for x in model.state.experts.values() if x.rank < 7], dim=1),
            )
            for name in combined.adapter.factors
        },
        0.05,
    )
    model.add_expert("sum", total)
    np.testing.assert_allclose(
        model.encode_query(TEXTS, expert="both"), model.encode_query(TEXTS, expert="sum"), atol=1e-4
    )
    info = model.experts["both"]
    assert (info.collection, info.queries, info.held_out, info.generated) == ("a, b", 21, 0, {"crops": 6})
    assert info.config["combined"] == {"a": 1.0, "b": 1.0}
    model.save_pretrained(tmp_path / "m")
    loaded = RouterRetriever.from_pretrained(tmp_path / "m", device="cpu")
    assert loaded.state.experts["both"].fingerprint == combined.adapter.fingerprint


def test_what_cannot_be_combined_is_told(model):
    for arguments, message in (
        ((["a"], "x"), "at least two"),
        ((["a", "z"], "x"), "no expert 'z'.*a, b"),
        ((["a", "b"], "a"), "already has an expert 'a'"),
        ((["a", "b"], "base"), "cannot be an expert's name"),
    ):
        with pytest.raises(ExpertError, match=message):
            merge_experts(model, *arguments)
    with pytest.raises(ExpertError, match="at least 1, not 0"):
        merge_experts(model, ["a", "b"], "x", rank=0)
    with pytest.raises(ExpertError, match="one finite weight for each of the 2"):
        merge_experts(model, ["a", "b"], "x", weights=[1.0])
    with pytest.raises(SilentExpertError):
        merge_experts(model, ["a", "a"], "x", weights=[1.0, -1.0])
    assert list(model.experts) == ["a", "b"]


def test_a_diff_is_that_of_the_dense_updates(model):
    first, second = model.state.experts.values()
    found = diff_experts(model, "a", "b")
    a, b = flat(first), flat(second)
    assert found.norm_a == pytest.approx(float(a.norm()))
    assert found.cosine == pytest.approx(float(a @ b / a.norm() / b.norm()))
    assert not found.same and diff_experts(model, "a", "a").same
    name, layer = next(iter(found.layers.items()))
    assert layer.norm_b == pytest.approx(float(dense(second, name).norm()))
    rows = [torch.linalg.svd(x.factors[name][0].double(), full_matrices=False)[2] for x in (first, second)]
    assert layer.overlap == pytest.approx(float((rows[0] @ rows[1].T).square().sum()) / 3)
    assert found.config == {"seed": (0, 1)}
    assert found.cards == {"collection": ("a", "b"), "queries": (10, 11), "expert_ndcg": (0.6, 0.7)}
    json.dumps(found.to_dict())
    own = diff_experts(model, "a", "a").layers[name]
    assert (own.cosine, own.overlap) == (pytest.approx(1.0), pytest.approx(1.0))
    part = Adapter({key: pair for key, pair in first.factors.items() if key != name}, first.scaling)
    model.add_expert("part", part)
    assert diff_experts(model, "a", "part").layers[name].norm_b == 0.0


def test_experts_of_other_models_and_bases(model, tmp_path):
    other = RouterRetriever.create(str(make_checkpoint(tmp_path / "same")), device="cpu")
    other.add_expert("c", replace(model.state.experts["a"], scaling=0.1))
    found = diff_experts(model, "a", "c", other)
    assert found.cosine == pytest.approx(1.0) and found.norm_b == pytest.approx(2 * found.norm_a)
    foreign = RouterRetriever.create(str(make_checkpoint(tmp_path / "roberta", "roberta")), device="cpu")
    with pytest.raises(FingerprintError, match="different bases"):
        diff_experts(model, "a", "a", foreign)


def test_cosines_of_all_pairs(model):
    first, second = model.state.experts.values()
    name = next(iter(second.factors))
    part = Adapter({name: second.factors[name]}, -2.0)
    zero = Adapter({name: (second.factors[name][0] * 0, second.factors[name][1])}, 1.0)
    found = cosines([first, second, part, zero])
    a, b = flat(first), flat(second)
    assert float(found[0, 1]) == pytest.approx(float(a @ b / a.norm() / b.norm()))
    assert float(found[1, 2]) == pytest.approx(-float(dense(second, name).norm() / b.norm()))
    torch.testing.assert_close(found.diagonal(), torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64))


def test_adapters_whose_layers_differ_in_rank_stay_what_they_are(model, tmp_path):
    adapter = random_adapter(model.encoder.lora_layers, 5)
    name = next(iter(adapter.factors))
    a, b = adapter.factors[name]
    adapter.factors[name] = (a[:1], b[:, :1])
    save_adapter(adapter, tmp_path / "x", base="tiny", revision=None)
    loaded = load_adapter(tmp_path / "x", model.encoder.lora_layers)
    assert loaded.fingerprint == adapter.fingerprint
    before = {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()}
    save_adapter(loaded, tmp_path / "x", base="tiny", revision=None)
    assert {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()} == before
    for key in adapter.factors:
        torch.testing.assert_close(dense(loaded, key), dense(adapter, key))
