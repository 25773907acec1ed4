"""RoutedEncoder: one forward pass in which every row of a batch may have its own expert.

The layers below the branch layer are the base's and shared. Entering the branch layer, the pooled
hidden state of each row (the route embedding) goes to the routing policy, which answers with a
weight for every candidate. The layers above then run once for each group of rows that can be treated
alike. Documents, and queries pinned to the base, run through the untouched base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch import Tensor, nn
from torch.nn import functional as F

from routerretriever.encoder.base_encoder import BaseEncoder
from routerretriever.encoder.base_files import load_head, save_head
from routerretriever.encoder.int8_layers import Int8Layers
from routerretriever.encoder.layered_pass import LayeredPass
from routerretriever.encoder.layers import check_layers, find_layers, install_adapters
from routerretriever.encoder.pass_state import DeferredLayers, RouteDecision
from routerretriever.encoder.probes import refuse_silent, silent_experts
from routerretriever.encoder.row_groups import FusedPlans, mixed_plan
from routerretriever.encoder.vector_map import VectorMap
from routerretriever.errors import ExpertError, ModelError
from routerretriever.expert_state import ExpertState
from routerretriever.kernels import attention
from routerretriever.lora.adapter import VECTOR_MAP, Adapter
from routerretriever.lora.expert_info import BaseInfo
from routerretriever.lora.layers import FusedPlan, GatheredPlan, LoraLinear, Plan, check_fits
from routerretriever.routing.candidates import BASE, ROUTED
from routerretriever.storage.hub_download import snapshot
from routerretriever.storage.model_folder import (
    ModelParts,
    check_fingerprint,
    read_model_info,
    read_state,
    write_state,
)


class RoutedEncoder(BaseEncoder):
    """A base encoder with experts, and the routed forward pass.

    Attributes:
        base: the base's public name, revision and licence.
        branch_layer: index of the first layer that experts may change.
        route_layer: where the route embedding is read: the branch layer, or the number of layers.
        lora_layers: name → each linear layer that experts may change.
    """

    # Saved models name this class by this path.
    __module__ = "routerretriever.encoder"

    forward_kwargs: ClassVar[set[str]] = {"task", "expert", "route_only"}  # type: ignore[misc]
    save_in_root = True

    def __init__(
        self,
        transformer: Transformer,
        head: Sequence[nn.Module],
        branch_layer: int | None = None,
        route_layer: int | None = None,
    ) -> None:
        """Wrap a base.

        Args:
            transformer: the base's transformer module; this class freezes it.
            head: the modules after it (pooling, and possibly dense and normalize).
            branch_layer: first layer that experts may change; default: the upper half.
            route_layer: where the route embedding is read: ``branch_layer`` (one forward pass), or
                -1 or the number of layers (the final sentence embedding: a second pass).

        Raises:
            ModelError: the architecture is not supported, or a layer is impossible.
        """
        super().__init__(transformer, head)
        layers = find_layers(transformer.model)
        self.num_layers = len(layers)
        if branch_layer is None:
            branch_layer = self.num_layers // 2
        if route_layer is None:
            route_layer = branch_layer
        if route_layer == -1:
            route_layer = self.num_layers
        self.branch_layer, self.route_layer = branch_layer, route_layer
        check_layers(self.branch_layer, self.route_layer, self.num_layers)

        self.base = BaseInfo("unknown")
        self._state = ExpertState()
        self.layered = LayeredPass(layers, self.branch_layer)
        self.layered.install(lambda: self.transformer(self.tokenized(["probe"])))
        selection = self.layered.selection
        self.lora_layers = install_adapters(transformer.model, layers, self.branch_layer, selection)
        unit = isinstance(self.head[-1], Normalize)
        self.vector_map = VectorMap(self.dimension, selection, to_unit_length=unit)

    @classmethod
    def from_modules(cls, modules: Sequence[nn.Module], **kwargs: Any) -> Self:
        """Wrap the modules of a plain Sentence Transformers model.

        Raises:
            ModelError: they are not a transformer followed by pooling.
        """
        first, *rest = modules
        if not isinstance(first, Transformer) or not rest or not isinstance(rest[0], Pooling):
            kinds = ", ".join(type(module).__name__ for module in modules)
            raise ModelError(
                "The base must be a transformer followed by pooling, but its modules are: "
                f"{kinds}. Use a dense single-vector encoder such as "
                "sentence-transformers/all-MiniLM-L6-v2."
            )
        return cls(first, rest, **kwargs)

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
        placed = {id(adapter) for adapter in self._state.experts.values()}
        like = next(iter(self.lora_layers.values())).weight.detach()
        experts: dict[str, Adapter] = {}
        for name, adapter in state.experts.items():
            if id(adapter) not in placed:
                check_fits(adapter, self.adapted_layers, f"The expert '{name}'")
                adapter = adapter.placed(like)
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
        """Return the experts that change no query vector; see :func:`probes.silent_experts`.

        Args:
            experts: name → adapter, not necessarily the model's; default all of the model's.
        """
        if experts is None:
            return silent_experts(self, self.state.experts)
        candidates = self._on_device(ExpertState(experts=experts))
        return silent_experts(self, candidates.experts)

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
        """Return the hidden states entering the branch layer, one (tokens, d) a row, unpadded."""
        mask = features["attention_mask"]
        deferred = DeferredLayers(
            decide=None,
            state=self.state,
            attention_mask=mask,
        )
        with self.layered.deferring(deferred):
            self.transformer(dict(features))
        assert deferred.hidden is not None
        return [row[kept] for row, kept in zip(deferred.hidden, mask.bool(), strict=True)]

    def finish(self, plan: Plan | None, features: dict[str, Any], hidden: list[Tensor] | None) -> Tensor:
        """Return sentence embeddings (n, d) with ``plan`` in force in the upper layers.

        Args:
            plan: ``None`` is the plain base.
            features: the tokenised batch.
            hidden: from :meth:`hidden_at_branch`; saves the work of the frozen lower layers.
        """
        padded = None if hidden is None else _pad_like(hidden, features["attention_mask"])
        layered = self.layered
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

    # -- the forward pass --------------------------------------------------------------------------

    def forward(
        self,
        features: dict[str, Tensor | Any],
        task: str | None = None,
        expert: str | None = None,
        route_only: bool = False,
        **kwargs: Any,
    ) -> dict[str, Tensor | Any]:
        """Encode one batch.

        Args:
            features: the tokenised batch, as from :meth:`preprocess`.
            task: ``"query"`` allows routing; anything else is encoded by the plain base.
            expert: pins ``"base"``, ``"merged"`` or an expert's name; ``"routed"`` or ``None``
                routes.
            route_only: stop at the branch layer, with the route embeddings only.

        Returns:
            features with ``sentence_embedding`` (n, d) and, when routed, ``route_embedding``
            (n, d_route) and ``route_weights`` (n, 2 + E).

        Raises:
            ExpertError: there is no expert of that name, or one was asked for a document.
        """
        if task != "query":
            if expert not in (None, BASE):
                raise ExpertError("Documents are always encoded by the base; leave out expert=….")
            return self.encode_plainly(features)
        if route_only:
            return self.forward_by(features, None)
        if expert in (None, ROUTED):
            state = self.state
            if state.policy is None:
                return self.encode_plainly(features)
            return self.forward_by(features, state.policy, state)
        return self._pinned(features, str(expert))

    def _pinned(self, features: dict[str, Any], expert: str) -> dict[str, Any]:
        plan = self.pinned_plan(expert)
        if plan is None:
            return self.encode_plainly(features)
        with self.layered.selection.use(plan), attention.over_queries():
            return self.encode_plainly(features)

    def forward_by(
        self,
        features: dict[str, Any],
        decide: RouteDecision | None,
        state: ExpertState | None = None,
    ) -> dict[str, Any]:
        """Encode one batch in which ``decide`` says what encodes each row; see :meth:`forward`.

        Args:
            features: the tokenised batch.
            decide: route embeddings (n, d) → weights (n, 2 + E); ``None`` stops at the branch layer.
            state: the experts that ``decide`` chooses among; default the present ones.
        """
        deferred = DeferredLayers(
            decide=decide,
            state=state or self.state,
            attention_mask=features["attention_mask"],
        )
        if self.route_layer == self.num_layers:
            first = self.encode_plainly(dict(features))
            final = first["sentence_embedding"].float()
            deferred.route_embeddings = F.normalize(final, dim=-1)
            if decide is None:
                return {**first, "route_embedding": deferred.route_embeddings}

        with self.layered.deferring(deferred):
            features = self.transformer(features)
        features["route_embedding"] = deferred.route_embeddings
        if decide is None:
            features["sentence_embedding"] = deferred.route_embeddings
            return features
        features = self._pool(features)
        groups = self.layered.map_groups(deferred)
        features["sentence_embedding"] = self.vector_map.by_groups(features["sentence_embedding"], groups)
        features["route_weights"] = torch.as_tensor(deferred.weights, device=deferred.attention_mask.device)
        return features

    def encode_plainly(self, features: dict[str, Any]) -> dict[str, Any]:
        """Run transformer, head and map without a router, under the plan in force; without one it is the base."""
        features = super().encode_plainly(features)
        plan = self.layered.selection.plan
        features["sentence_embedding"] = self.vector_map(features["sentence_embedding"], plan)
        return features

    @property
    def route_dimension(self) -> int:
        """Length of the route embeddings."""
        if self.route_layer == self.num_layers:
            return self.dimension
        hidden: int = self.transformer.model.config.hidden_size
        return hidden

    # -- storage -----------------------------------------------------------------------------------

    def get_config_dict(self) -> dict[str, Any]:
        """Return where experts begin and where the router reads."""
        return {"branch_layer": self.branch_layer, "route_layer": self.route_layer}

    def parts(self) -> ModelParts:
        """Return what a model's folder holds besides the base's own files."""
        return ModelParts(
            state=self.state,
            base=self.base,
            fingerprint=self.fingerprint,
            layout=self.get_config_dict(),
            layers=tuple(self.lora_layers),
        )

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the base at the root, and the experts and pilots beside it; not atomic by itself.

        Raises:
            ModelError: ``safe_serialization=False`` is asked for, which is not supported.
        """
        if not kwargs.get("safe_serialization", True):
            raise ModelError("Models are saved as safetensors only. Leave out safe_serialization=False.")
        root = Path(output_path)
        self.transformer.save(str(root))
        write_state(root, self.parts(), save_head(self.head, root))

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> Self:  # type: ignore[override]
        """Read what :meth:`save` wrote, and check that it belongs together.

        Raises:
            FormatError: a file is missing, damaged, or of a newer format.
            FingerprintError: base, experts and pilots do not belong together.
            SilentExpertError: an expert changes nothing.
        """
        root = snapshot(model_name_or_path, kwargs)
        info = read_model_info(root)
        encoder = cls.load_base(root, info, **kwargs)
        recorded = info["base"]["fingerprint"]
        check_fingerprint(encoder.fingerprint, recorded, f"The base weights in {root}")
        state = read_state(root, info, encoder.lora_layers, encoder.fingerprint)
        encoder.state = state
        encoder.check_not_silent(encoder.state.experts, f" in {root}")
        return encoder

    @classmethod
    def load_base(cls, root: Path, info: Mapping[str, Any], **kwargs: Any) -> Self:
        """Load the base of a saved model without its experts; the caller checks which base it is."""
        kwargs.pop("subfolder", None)
        transformer = Transformer.load(str(root), **kwargs)
        head = load_head(root, info["head"])
        encoder = cls(transformer, head, info["branch_layer"], info["route_layer"])
        base = info["base"]
        encoder.base = BaseInfo(base["id"], base["revision"], base.get("licence"))
        return encoder


def _pad_like(hidden: list[Tensor], mask: Tensor) -> Tensor:
    padded = hidden[0].new_zeros(*mask.shape, hidden[0].shape[-1])
    padded[mask.bool()] = torch.cat(hidden)
    return padded
