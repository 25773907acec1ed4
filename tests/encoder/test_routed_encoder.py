import numpy as np
import pytest
import torch
from models import TEXTS, with_experts
from sentence_transformers import SentenceTransformer
from tiny import ARCHITECTURES, WORDS, make_checkpoint, needs_int8, random_adapter

from routerretriever import RouterRetriever
from routerretriever.errors import ExpertError, ModelError
from routerretriever.lora.adapter import Adapter


@pytest.fixture(scope="module", params=[(a, p) for a in ARCHITECTURES for p in ("mean", "cls")], ids="-".join)
def base_path(request, tmp_path_factory):
    architecture, pooling = request.param
    return make_checkpoint(tmp_path_factory.mktemp(architecture), architecture, pooling)


class Fixed:
    """A policy that ignores its input."""

    def __init__(self, weights):
        self.weights, self.seen = weights, None

    def __call__(self, route_embeddings):
        self.seen = route_embeddings
        return self.weights


def choose(columns, n_columns=7):
    return np.eye(n_columns, dtype=np.float32)[columns]


def test_documents_are_bit_identical_to_the_base(base_path):
    plain = SentenceTransformer(str(base_path), device="cpu")
    wanted = plain.encode_document(TEXTS)
    model = RouterRetriever.create(str(base_path), device="cpu")
    before = model.fingerprint
    assert (model.encode_document(TEXTS) == wanted).all()
    for number in range(2):
        model.add_expert(f"e{number}", random_adapter(model.encoder.lora_layers, number))
    model.encode_query(TEXTS, expert="e1")
    assert (model.encode_document(TEXTS) == wanted).all()
    assert (model.encode(TEXTS) == wanted).all()
    assert (model.encode_query(TEXTS, expert="base") == wanted).all()
    model.remove_expert("e0")
    assert (model.encode_document(TEXTS) == wanted).all()
    assert model.fingerprint == before


@needs_int8
def test_every_architecture_computes_in_8_bits(base_path):
    model = RouterRetriever.create(str(base_path), device="cpu")
    exact = model.encode_document(TEXTS)
    with model.encoder.in_int8():
        rounded = model.encode_document(TEXTS)
    cosines = torch.nn.functional.cosine_similarity(torch.as_tensor(exact), torch.as_tensor(rounded), dim=1)
    assert cosines.min() > 0.98
    assert cosines.max() < 1 - 1e-7
    assert (model.encode_document(TEXTS) == exact).all()


# The base, the merged expert, and experts with many rows and few, in one batch; and experts alone, in no order.
MIXTURES = ([0, 1, 2, 2, 2, 2, 2, 2, 3, 3, 4, 5, 6, 6, 0, 1, 2, 3, 6, 6, 6, 4, 5, 0], [6, 2, 5, 3, 4, 2] * 4)


KINDS = {"lora": ("lora",), "map": ("map",), "all": ("lora", "map", "both")}


@pytest.mark.parametrize("columns", MIXTURES)
@pytest.mark.parametrize("large", [1, 40, 10_000])
@pytest.mark.parametrize("kinds", KINDS)
def test_mixed_rows_equal_the_same_rows_one_expert_at_a_time(base_path, columns, large, kinds, monkeypatch):
    monkeypatch.setattr("routerretriever.encoder.row_groups.MIN_FUSED_TOKENS", large)
    model = with_experts(base_path, kinds=KINDS[kinds])
    model.state = model.state.with_policy(Fixed(choose(columns)))
    features = model.preprocess(TEXTS)
    routed = model[0](dict(features), task="query")["sentence_embedding"]
    for column, name in enumerate(model.state.candidates):
        rows = [row for row, chosen in enumerate(columns) if chosen == column]
        if not rows:
            continue
        pinned = model.encode_query([TEXTS[row] for row in rows], expert=name, convert_to_tensor=True)
        assert (routed[rows] - pinned).abs().max() < 1e-5, name


def test_gathered_factors_equal_merged_weights_and_peft(base_path, tmp_path):
    """Three ways of applying one adapter, PEFT's own among them."""
    from peft import PeftModel
    from transformers import AutoModel

    model = with_experts(base_path, n=3)
    model.save_pretrained(tmp_path / "m")
    peft_model = PeftModel.from_pretrained(
        AutoModel.from_pretrained(tmp_path / "m"), str(tmp_path / "m"), subfolder="experts/e1"
    ).eval()
    features = model.preprocess(TEXTS)
    keys = ("input_ids", "attention_mask")
    with torch.inference_mode():
        hidden = peft_model(**{k: features[k] for k in keys}).last_hidden_state
        wanted = model.encoder._pool({**features, "token_embeddings": hidden})["sentence_embedding"]
    model.state = model.state.with_policy(Fixed(choose([2 + row % 3 for row in range(24)], 5)))
    for size in (24, 3):  # three large groups; rows of three different experts gathered
        part = model.preprocess(TEXTS[:size])
        model.state.policy.weights = choose([2 + row % 3 for row in range(size)], 5)
        got = model[0](part, task="query")["sentence_embedding"]
        assert (got[1::3] - wanted[1:size:3]).abs().max() < 1e-5


def test_routing_costs_one_pass(base_path):
    """Every layer sees every row exactly once."""
    model = with_experts(base_path)
    rows = {}
    layers = model.encoder.layered.layers
    for number, layer in enumerate(layers):
        original = type(layer).forward

        def counting(self, hidden, *args, _original=original, **kwargs):
            rows[id(self)] = rows.get(id(self), 0) + len(hidden)
            return _original(self, hidden, *args, **kwargs)

        layer.__class__ = type(f"Counting{number}", (type(layer),), {"forward": counting})
    model.state = model.state.with_policy(Fixed(choose([row % 7 for row in range(24)])))
    model[0](model.preprocess(TEXTS), task="query")
    assert [rows[id(layer)] for layer in layers] == [24] * 4


def test_merged_expert_is_the_mean_of_the_deltas(base_path):
    model = with_experts(base_path, n=2)
    a, b = (model.state.experts[f"e{n}"] for n in range(2))
    mean = {
        name: (
            torch.cat([a.factors[name][0], b.factors[name][0]]),
            torch.cat([a.factors[name][1], b.factors[name][1]], dim=1) * 0.5,
        )
        for name in a.factors
    }
    model.add_expert("mean", Adapter(mean, 0.05))
    by_hand = model.encode_query(TEXTS, expert="mean", convert_to_tensor=True)
    model.remove_expert("mean")
    assert (model.encode_query(TEXTS, expert="merged", convert_to_tensor=True) - by_hand).abs().max() < 1e-5


def test_shares_scale_and_add_the_updates(base_path):
    """Half of one expert, two experts at once, and a whole one, in one batch and one pass."""
    model = with_experts(base_path)
    e0, e2 = (model.state.experts[name] for name in ("e0", "e2"))
    both = {
        name: (
            torch.cat([e0.factors[name][0], e2.factors[name][0]]),
            torch.cat(
                [0.7 * e0.scaling * e0.factors[name][1], 0.2 * e2.scaling * e2.factors[name][1]], dim=1
            ),
        )
        for name in e0.factors
    }
    weights = np.zeros((24, 7), np.float32)
    weights[:12, 2], weights[:12, 0] = 0.5, 0.5
    weights[12:, 2], weights[12:, 4], weights[12:, 0] = 0.7, 0.2, 0.1
    weights[3] = weights[20] = 0.0
    weights[3, 5] = weights[20, 1] = 1.0
    model.state = model.state.with_policy(Fixed(weights))
    got = model[0](model.preprocess(TEXTS), task="query")["sentence_embedding"]
    model.state = model.state.with_policy(None)
    wanted = {
        name: model.encode_query(TEXTS, expert=name, convert_to_tensor=True) for name in ("e3", "merged")
    }
    model.add_expert("half", e0.scaled(0.5))
    model.add_expert("both", Adapter(both, 1.0))
    wanted |= {
        name: model.encode_query(TEXTS, expert=name, convert_to_tensor=True) for name in ("half", "both")
    }
    for row in range(24):
        name = {3: "e3", 20: "merged"}.get(row, "half" if row < 12 else "both")
        assert (got[row] - wanted[name][row]).abs().max() < 1e-5, (row, name)


def test_a_share_of_the_merged_update_is_the_same_share_of_every_expert(checkpoint):
    model = with_experts(checkpoint)
    merged, spread = np.zeros((2, 24, 7), np.float32)
    merged[:, 0], merged[:, 1] = 0.5, 0.5
    spread[:, 0], spread[:, 2:] = 0.5, 0.1
    vectors = []
    for weights in (merged, spread):
        model.state = model.state.with_policy(Fixed(weights))
        vectors.append(model[0](model.preprocess(TEXTS), task="query")["sentence_embedding"])
    assert (vectors[0] - vectors[1]).abs().max() < 1e-5
    whole = model.encode_query(TEXTS, expert="merged", convert_to_tensor=True)
    assert (vectors[0] - whole).abs().max() > 1e-3


def test_a_row_does_not_depend_on_its_batch(base_path):
    model = with_experts(base_path)
    together = model.encode_query(TEXTS, route_only=True)
    alone = [model.encode_query([text], route_only=True)[0] for text in TEXTS]
    assert abs(together - alone).max() < 1e-5


def test_two_passes_read_the_final_embedding(checkpoint):
    model = with_experts(checkpoint, branch_layer=0, route_layer=-1)
    policy = Fixed(choose([2 + row % 5 for row in range(24)]))
    model.state = model.state.with_policy(policy)
    routed = model[0](model.preprocess(TEXTS), task="query")["sentence_embedding"]
    final = torch.nn.functional.normalize(model.encode(TEXTS, convert_to_tensor=True), dim=-1)
    assert abs(policy.seen - final.numpy()).max() < 1e-5
    pinned = model.encode_query([TEXTS[0]], expert="e0", convert_to_tensor=True)
    assert (routed[0] - pinned[0]).abs().max() < 1e-5


def test_unknown_expert_is_named_with_the_choices(checkpoint):
    model = with_experts(checkpoint, n=2)
    with pytest.raises(ExpertError, match="no expert 'nobody'.*base, merged, e0, e1"):
        model.encode_query(["word1"], expert="nobody")
    with pytest.raises(ExpertError, match="always encoded by the base"):
        model.encode_document(["word1"], expert="e0")


def test_without_experts_queries_are_the_bases(checkpoint):
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    assert (model.encode_query(TEXTS) == model.encode_document(TEXTS)).all()
    assert (model.encode_query(TEXTS, expert="merged") == model.encode_document(TEXTS)).all()


@pytest.mark.parametrize(("branch", "route", "message"), [(4, None, "branch_layer"), (1, 3, "route_layer")])
def test_impossible_layers(checkpoint, branch, route, message):
    with pytest.raises(ModelError, match=message):
        RouterRetriever.create(str(checkpoint), branch_layer=branch, route_layer=route, device="cpu")


def test_merged_weights_kept_are_bounded(checkpoint, monkeypatch):
    monkeypatch.setattr("routerretriever.encoder.row_groups.MAX_FUSED_PLANS", 2)
    model = with_experts(checkpoint)
    for name in ("e0", "e1", "e2", "e0", "e3"):
        model.encode_query(TEXTS, expert=name)
    assert model.encoder.pinned_plan("e0").weights and model.encoder.pinned_plan("e3").weights
    assert not model.encoder.pinned_plan("e1").weights  # it had to go


def test_counting_tokens_does_not_disturb_who_is_tokenising(checkpoint):
    """The tokeniser keeps its padding between calls, so that two threads in it would take each other's."""
    from concurrent.futures import ThreadPoolExecutor

    encoder = RouterRetriever.create(str(checkpoint), device="cpu").encoder
    texts = [" ".join(WORDS[: 1 + row % 40]) for row in range(200)]
    counts = encoder.token_counts(texts)

    def tokenise(number):
        if number % 2:
            assert encoder.token_counts(texts) == counts
        else:
            assert encoder.tokenized(texts)["attention_mask"].sum(dim=1).tolist() == counts

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(tokenise, range(60)))


def test_threads_do_not_disturb_each_other(checkpoint):
    from concurrent.futures import ThreadPoolExecutor

    model = with_experts(checkpoint)
    names = ["base", "e0", "e1", "e2", "merged", "e3"] * 4
    wanted = {name: model.encode_query(TEXTS, expert=name) for name in set(names)}
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda name: model.encode_query(TEXTS, expert=name), names))
    for name, result in zip(names, results, strict=True):
        assert abs(result - wanted[name]).max() < 1e-5


def test_experts_survive_copying_between_dtypes(checkpoint):
    model = with_experts(checkpoint, n=2)
    wanted = model.encode_query(TEXTS, expert="e0", convert_to_tensor=True)
    model.double()
    model.state = model.state
    doubled = model.encode_query(TEXTS, expert="e0", convert_to_tensor=True)
    assert doubled.dtype == torch.float64
    assert (wanted - doubled).abs().max() < 1e-4


def test_options_of_sentence_transformers_still_hold(base_path):
    model = with_experts(base_path)
    model.train()
    assert model.encode_query(TEXTS[:2]).shape == (2, 32)
    assert not model.training
    model.truncate_dim = 8
    assert model.encode_query(TEXTS[:2]).shape == (2, 8)
    assert model.encode_query(TEXTS[0], convert_to_tensor=True).shape == (8,)
    model.truncate_dim = None
    assert (model.encode_query(TEXTS[0]) == model.encode_query(TEXTS[:1])[0]).all()
    with pytest.raises(ValueError, match="batch_size"):
        model.encode_query(TEXTS[:1], batch_size=0)


@pytest.mark.parametrize("similarity", ["euclidean", "manhattan"])
def test_a_base_that_ranks_by_a_distance_is_refused(checkpoint, tmp_path, similarity):
    SentenceTransformer(str(checkpoint), similarity_fn_name=similarity, device="cpu").save_pretrained(
        str(tmp_path)
    )
    with pytest.raises(
        ModelError, match=f"similarity '{similarity}' of .* is not supported.*similarity='cosine'"
    ):
        RouterRetriever.create(str(tmp_path), device="cpu")
    with pytest.raises(ModelError, match=f"similarity '{similarity}'"):
        RouterRetriever.create(str(checkpoint), similarity=similarity, device="cpu")
    assert (
        RouterRetriever.create(str(tmp_path), similarity="cosine", device="cpu").similarity_fn_name
        == "cosine"
    )
