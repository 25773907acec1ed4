"""Attention over short queries against torch's own, in fp32."""

import pytest
import torch
from tiny import WORDS, make_checkpoint, random_adapter
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from routerretriever import RouterRetriever
from routerretriever.kernels import attention


class Encoder(torch.nn.Module):
    is_causal = False


class Decoder(torch.nn.Module):
    is_causal = True


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def inputs(n, tokens, heads=3, size=8):
    generator = torch.Generator().manual_seed(tokens)
    states = [torch.randn(n, tokens, heads, size, generator=generator).transpose(1, 2) for _ in range(3)]
    lengths = torch.arange(n) % tokens + 1
    mask = (torch.arange(tokens)[None] < lengths[:, None])[:, None, None, :].expand(n, 1, tokens, tokens)
    return states, mask


def taken(monkeypatch):
    """The token counts of what torch's own attention is asked."""
    seen = []

    def noted(module, query, *args, **kwargs):
        seen.append(query.shape[2])
        return sdpa_attention_forward(module, query, *args, **kwargs)

    monkeypatch.setattr(attention, "sdpa_attention_forward", noted)
    return seen


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.2])
@pytest.mark.parametrize("tokens", [1, 5, attention.SHORT])
def test_short_queries_get_what_torch_computes(tokens, scaling, masked, two_threads, monkeypatch):
    (query, key, value), mask = inputs(6, tokens)
    mask = mask if masked else None
    wanted, _ = sdpa_attention_forward(Encoder(), query, key, value, mask, scaling=scaling)
    seen = taken(monkeypatch)
    with attention.over_queries():
        found, _ = attention.attend(Encoder(), query, key, value, mask, scaling=scaling)
    assert not seen
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-5


def test_gradients_are_those_of_torch(two_threads):
    gradients = []
    for attend in (attention.attend, sdpa_attention_forward):
        states, mask = inputs(4, 7)
        states = [state.requires_grad_() for state in states]
        with attention.over_queries():
            attend(Encoder(), *states, mask)[0].square().sum().backward()
        gradients.append(torch.stack([state.grad for state in states]))
    assert (gradients[0] - gradients[1]).abs().max() < 1e-4


def test_everything_else_is_left_to_torch(two_threads, monkeypatch):
    seen = taken(monkeypatch)
    (query, key, value), mask = inputs(3, 9)
    long, _ = inputs(3, attention.SHORT + 1)
    attention.attend(Encoder(), query, key, value, mask)  # documents
    with attention.over_queries():
        attention.attend(Encoder(), *long, None)
        attention.attend(Encoder(), query, key[:, :, :4], value[:, :, :4], None)
        attention.attend(Encoder(), query, key, value, mask, dropout=0.1)
        attention.attend(Encoder(), query, key, value, None, is_causal=True)
        attention.attend(Decoder(), query, key, value, None)
        attention.attend(Encoder(), query, key, value, None, position_bias=torch.zeros(1, 3, 9, 9))
        torch.set_num_threads(1)
        attention.attend(Encoder(), query, key, value, mask)
    assert len(seen) == 8


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert"])
def test_a_model_uses_it_for_queries_and_not_for_documents(architecture, two_threads, monkeypatch, tmp_path):
    model = RouterRetriever.create(str(make_checkpoint(tmp_path, architecture, "mean")), device="cpu")
    model.add_expert("e", random_adapter(model.encoder.lora_layers, 0))
    texts = [" ".join(WORDS[row : row + 4]) for row in range(8)]
    seen = taken(monkeypatch)
    model.encode_query(texts, expert="e")
    assert not seen
    model.encode_document(texts)
    model.encode_query(texts, expert="base")
    assert seen
