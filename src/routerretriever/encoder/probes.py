"""Probe texts: they identify a base, and show whether an expert changes anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from routerretriever.encoder.silent import silent_experts
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.layers import GatheredPlan, Plan


class ProbedEncoder(Protocol):
    """What probing needs of an encoder."""

    def tokenized(self, texts: list[str], prompt: str | None = None) -> dict[str, Any]:
        """Tokenise onto the encoder's device."""

    def hidden_at_branch(self, features: dict[str, Any]) -> list[Tensor]:
        """Return what experts begin with, one tensor a row."""

    def finish(self, plan: Plan | None, features: dict[str, Any], hidden: list[Tensor] | None) -> Tensor:
        """Run the upper layers under a plan."""


def base_fingerprint(
    weights: Mapping[str, Tensor],
    head: Iterable[nn.Module],
    probe_ids: Sequence[Sequence[int]],
    max_seq_length: int | None,
) -> str:
    """Return a hash of everything that decides a base's vectors.

    Args:
        weights: name → tensor of the whole base.
        head: the modules after the transformer.
        probe_ids: token ids of :data:`silent.PROBES`.
        max_seq_length: longest input in tokens.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    for module in head:
        config = module.get_config_dict()  # type: ignore[operator]
        digest.update(f"{type(module).__name__}{config}".encode())
    digest.update(json.dumps([probe_ids, max_seq_length]).encode())
    return digest.hexdigest()


def silent_of(encoder: ProbedEncoder, experts: Mapping[str, Adapter]) -> list[str]:
    """Return the experts that change no probe's vector; see :func:`silent.silent_experts`.

    Args:
        encoder: encodes the probes.
        experts: name → adapter on the encoder's device; they need not belong to the model yet.
    """

    def largest_changes(names: Sequence[str], probe: str) -> list[float]:
        return _largest_changes(encoder, [experts[name] for name in names], probe)

    return silent_experts(list(experts), largest_changes)


@torch.inference_mode()
def _largest_changes(encoder: ProbedEncoder, adapters: Sequence[Adapter], probe: str) -> list[float]:
    """Return the largest difference that each adapter makes to a probe's vector."""
    features = encoder.tokenized([probe])
    (hidden,) = encoder.hidden_at_branch(features)
    if hidden.ndim == 1 and not hidden.any():
        # A vocabulary without the probe's words gives a zero vector, which no map changes.
        hidden = torch.ones_like(hidden) / len(hidden) ** 0.5
    base = encoder.finish(None, features, [hidden])
    count = len(adapters)
    repeated: dict[str, Any] = {}
    for key, value in features.items():
        if isinstance(value, Tensor) and value.ndim > 1:
            value = value.expand(count, *value.shape[1:])
        repeated[key] = value
    one_each = torch.arange(count, device=hidden.device)[:, None]
    plan = GatheredPlan.of(adapters, one_each)
    vectors = encoder.finish(plan, repeated, [hidden] * count)
    changes: list[float] = (vectors - base).abs().amax(dim=1).tolist()
    return changes
