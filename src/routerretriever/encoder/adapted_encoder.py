"""A base with room for experts: in its upper layers where it can be opened, and behind its last module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from sentence_transformers.base.modules import InputModule
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import Tensor, nn

from routerretriever.encoder.base_encoder import BaseEncoder
from routerretriever.encoder.int8_layers import Int8Layers
from routerretriever.encoder.layered_pass import LayeredPass
from routerretriever.encoder.layers import chosen_layers, find_layers, install_adapters, is_causal, is_tested
from routerretriever.encoder.pass_state import DeferredLayers
from routerretriever.encoder.probes import silent_of
from routerretriever.encoder.row_groups import FusedPlans, mixed_plan
from routerretriever.encoder.silent import PROBES, refuse_silent
from routerretriever.encoder.vector_map import VectorMap
from routerretriever.expert_state import ExpertState
from routerretriever.kernels import attention
from routerretriever.lora.adapter import VECTOR_MAP, Adapter
from routerretriever.lora.fits import check_fits
from routerretriever.lora.layers import FusedPlan, GatheredPlan, LoraLinear, Plan, placed, shapes


class AdaptedEncoder(BaseEncoder):
    """A base and its experts.

    A base that cannot be opened has no layers here: its experts are maps, and everything that would
    begin at the branch layer begins with the finished vector.

    Attributes:
        num_layers: layers of the base; 0 where it cannot be opened.
        branch_layer: index of the first layer that experts may change.
        route_layer: where the route embedding is read: the branch layer, or the number of layers.
        lora_layers: name → each linear layer that experts may change.
        vector_map: changes finished vectors.
    """

    def __init__(
        self,
        body: InputModule,
        head: Sequence[nn.Module],
        branch_layer: int | None = None,
        route_layer: int | None = None,
        *,
        opened: bool = True,
    ) -> None:
        """Wrap a base.

        Args:
            body: the base's first module; this class freezes it.
            head: the modules after it (pooling, and possibly dense and normalize).
            branch_layer: first layer that experts may change; default: the upper half.
            route_layer: where the route embedding is read: ``branch_layer`` (one forward pass), or
                -1 or the number of layers (the final sentence embedding: a second pass where an
                expert changes layers).
            opened: whether experts may change layers, if the base has layers that can be run one by one.

        Raises:
            ModelError: a layer is impossible, or the base gives no vector.
        """
        super().__init__(body, head)
        layers = find_layers(self.body, list(self.head)) if opened else nn.ModuleList()
        self._state = ExpertState()
        self.layered = LayeredPass(layers, 0)
        self._open(branch_layer, route_layer)
        selection = self.layered.selection
        self.lora_layers = install_adapters(self.body, self.layered.layers, self.branch_layer, selection)
        unit = bool(self.head) and isinstance(self.head[-1], Normalize)
        self.vector_map = VectorMap(self.dimension, selection, to_unit_length=unit)

    def _open(self, branch_layer: int | None, route_layer: int | None) -> None:
        """Decide where experts begin and where the router reads, and let the layers run one by one."""
        layered = self.layered
        self.num_layers = len(layered.layers)
        self.branch_layer, self.route_layer = chosen_layers(branch_layer, route_layer, self.num_layers)
        if not self.num_layers:
            return
        layered.branch_layer = self.branch_layer
        layered.evens_tokens = is_causal(self.body)
        if is_tested(self.body):
            layered.install(lambda: self.body(self.tokenized(["probe"])))
            if not is_causal(self.body):
                attention.install(self.body.model.config)
        elif not self._runs_by_layers():
            layered.uninstall()
            self._open(branch_layer, route_layer)

    def _runs_by_layers(self) -> bool:
        """Return whether running the layers one by one, in groups of rows, gives the base's own vectors."""
        texts = list(PROBES)
        groups = np.eye(2, dtype=np.float32)[[row % 2 for row in range(len(texts))]]
        try:
            with torch.no_grad():
                features = self.tokenized(texts)
                wanted = BaseEncoder.encode_plainly(self, dict(features))["sentence_embedding"]
                self.layered.install(lambda: self.body(self.tokenized(texts)))
                deferred = DeferredLayers(
                    decide=lambda read: groups,
                    state=self.state,
                    attention_mask=features["attention_mask"],
                )
                with self.layered.deferring(deferred):
                    routed = self.body(dict(features))
                resumed = _pad_like(self.hidden_at_branch(features), features["attention_mask"])
                with self.layered.resuming(resumed):
                    finished = BaseEncoder.encode_plainly(self, dict(features))["sentence_embedding"]
                return all(
                    torch.allclose(found, wanted, rtol=1e-3, atol=1e-5)
                    for found in (self._pool(routed)["sentence_embedding"], finished)
                )
        except Exception:  # whatever an architecture makes of it: then the base is used as a whole
            return False

    @property
    def is_opened(self) -> bool:
        """Whether experts may change layers of the base; otherwise they change its finished vectors alone."""
        return self.num_layers > 0

    @property
    def adapted_layers(self) -> Mapping[str, LoraLinear]:
        """Name → each layer that experts may change: those of the base, and the map of the finished vector."""
        return {**self.lora_layers, VECTOR_MAP: self.vector_map.layer}

    # -- experts -----------------------------------------------------------------------------------

    @property
    def state(self) -> ExpertState:
        """The experts, what is known of them, and the policy, as one value that never changes.

        Assigning another state swaps all three at once. Documents are not affected.
        """
        return self._state

    @state.setter
    def state(self, state: ExpertState) -> None:
        self._state = self._on_device(state)
        self.layered.fused = FusedPlans()

    def _on_device(self, state: ExpertState) -> ExpertState:
        # Placing thousands of factors takes long, so those that are in place already stay.
        present = {id(adapter) for adapter in self._state.experts.values()}
        layers = self.adapted_layers
        experts: dict[str, Adapter] = {}
        for name, adapter in state.experts.items():
            if id(adapter) not in present:
                check_fits(adapter, shapes(layers), f"The expert '{name}'")
                adapter = placed(adapter, {name: layer.weight for name, layer in layers.items()})
            experts[name] = adapter
        return replace(state, experts=experts)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the module, as torch asks; the experts are no parameters, but go along."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.vector_map.move(fn)
        state, self._state = self._state, ExpertState()
        self.state = state
        self.layered.int8 = Int8Layers()
        return self

    def silent_experts(self, experts: Mapping[str, Adapter] | None = None) -> list[str]:
        """Return the experts that change no query vector; see :func:`silent.silent_experts`.

        Args:
            experts: name → adapter, not necessarily the model's; default all of the model's.
        """
        if experts is None:
            return silent_of(self, self.state.experts)
        candidates = self._on_device(ExpertState(experts=experts))
        return silent_of(self, candidates.experts)

    def check_not_silent(self, experts: Mapping[str, Adapter], where: str = "") -> None:
        """Refuse experts that change no query vector.

        Raises:
            SilentExpertError: names them.
        """
        refuse_silent(self.silent_experts(experts), where)

    # -- plans -------------------------------------------------------------------------------------

    def pinned_plan(self, candidate: str) -> FusedPlan | None:
        """Return the plan that gives all rows to one candidate; ``None`` is the plain base.

        Raises:
            ExpertError: there is no such candidate.
        """
        state = self.state
        return self.layered.fused.candidate(state, state.column(candidate))

    def mean_plan(self, experts: Sequence[str], weight: float = 1.0) -> FusedPlan:
        """Return the plan that applies ``weight`` times the mean delta of some experts to all rows."""
        state = self.state
        return self.layered.fused.mean([state.experts[name] for name in experts], weight)

    def mixed_plan(self, weights: Tensor) -> GatheredPlan:
        """Return the plan that gives each row the sum of experts' deltas by weights (n, E)."""
        return mixed_plan(self.state, weights)

    # -- parts of a pass ---------------------------------------------------------------------------

    def hidden_at_branch(self, features: dict[str, Any]) -> list[Tensor]:
        """Return what experts begin with, one tensor a row.

        These are the hidden states entering the branch layer (tokens, d), unpadded; of a base that
        cannot be opened they are the finished vectors (d,).
        """
        if not self.is_opened:
            return list(self.encode_plainly(dict(features))["sentence_embedding"])
        mask = features["attention_mask"]
        deferred = DeferredLayers(
            decide=None,
            state=self.state,
            attention_mask=mask,
        )
        with self.layered.deferring(deferred):
            self.body(dict(features))
        assert deferred.hidden is not None
        return [row[kept] for row, kept in zip(deferred.hidden, mask.bool(), strict=True)]

    def finish(self, plan: Plan | None, features: dict[str, Any], hidden: list[Tensor] | None) -> Tensor:
        """Return sentence embeddings (n, d) with ``plan`` in force in the upper layers.

        Args:
            plan: ``None`` is the plain base.
            features: the tokenised batch.
            hidden: from :meth:`hidden_at_branch`; saves the work of the frozen lower layers.
        """
        layered = self.layered
        if hidden is not None and not self.is_opened:
            return self.vector_map(torch.stack(hidden), plan)
        padded = None if hidden is None else _pad_like(hidden, features["attention_mask"])
        with layered.resuming(padded), layered.selection.use(plan), attention.over_queries():
            vectors: Tensor = self.encode_plainly(dict(features))["sentence_embedding"]
        return vectors

    def in_int8(self) -> AbstractContextManager[None]:
        """Compute in 8 bits what this thread encodes by the base alone: documents above all.

        Raises:
            ModelError: torch cannot here; see
                :class:`routerretriever.kernels.quantization.Int8Linear`.
        """
        return self.layered.in_int8()

    def encode_plainly(self, features: dict[str, Any]) -> dict[str, Any]:
        """Run transformer, head and map without a router, under the plan in force; without one it is the base."""
        features = super().encode_plainly(features)
        plan = self.layered.selection.plan
        features["sentence_embedding"] = self.vector_map(features["sentence_embedding"], plan)
        return features


def _pad_like(hidden: list[Tensor], mask: Tensor) -> Tensor:
    padded = hidden[0].new_zeros(*mask.shape, hidden[0].shape[-1])
    padded[mask.bool()] = torch.cat(hidden)
    return padded
