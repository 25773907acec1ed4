"""Run a base layer by layer: shared lower layers, then the upper layers once for each group of rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from routerretriever.encoder.int8_layers import Int8Layers
from routerretriever.encoder.layers import returns_tuple
from routerretriever.encoder.pass_state import DeferredLayers, PassState, RouteDecision
from routerretriever.encoder.row_groups import FusedPlans, RowGroup, row_groups, take_rows
from routerretriever.encoder.row_weights import without_experts
from routerretriever.expert_state import ExpertState
from routerretriever.kernels import attention
from routerretriever.kernels.threads import one_blas_thread
from routerretriever.kernels.vectors import Vectors
from routerretriever.lora.adapter import Kind
from routerretriever.lora.layers import Plan, Selection, SlicedPlan


class LayeredPass:
    """Decides, for each layer of a base, what happens when it is called.

    Attributes:
        layers: of the base; none where it cannot be opened.
        branch_layer: index of the first layer that experts may change.
        selection: the plan in force in this thread.
        current: what this thread's pass is doing.
        fused: the plans with fused weights that were used last.
        int8: copies of the layers in 8 bits.
        returns_tuple: whether a layer answers with a tuple.
        evens_tokens: whether the router reads all tokens of a text at one length.
    """

    def __init__(self, layers: nn.ModuleList, branch_layer: int) -> None:
        self.layers, self.branch_layer = layers, branch_layer
        self.selection, self.current = Selection(), PassState()
        self.fused, self.int8 = FusedPlans(), Int8Layers()
        self.returns_tuple, self.evens_tokens = False, False

    def install(self, run: Any) -> None:
        """Take the place of every layer's ``forward``.

        Args:
            run: runs the base on some text, to see how its layers answer.
        """
        self.returns_tuple = returns_tuple(self.layers[0], run)
        for index, layer in enumerate(self.layers):
            layer.forward = _LayerForward(self, layer, index)

    def uninstall(self) -> None:
        """Give every layer its own ``forward`` back."""
        for layer in self.layers:
            vars(layer).pop("forward", None)
        self.layers, self.branch_layer = nn.ModuleList(), 0

    def is_plain(self) -> bool:
        """Return whether this thread's pass is the base's own, without router and expert."""
        current = self.current
        return current.deferred is None and current.resume is None and self.selection.plan is None

    @contextmanager
    def in_int8(self) -> Iterator[None]:
        """Compute in 8 bits what this thread encodes by the base alone.

        Raises:
            ModelError: torch cannot here; see
                :class:`routerretriever.kernels.quantization.Int8Linear`.
        """
        layers = self.int8.of(self.layers, owner=self)
        previous, self.current.layers = self.current.layers, layers
        try:
            yield
        finally:
            self.current.layers = previous

    @contextmanager
    def resuming(self, hidden: Tensor | None) -> Iterator[None]:
        """Begin with hidden states (n, tokens, d) at the branch layer; ``None`` runs all layers."""
        self.current.resume = hidden
        try:
            yield
        finally:
            self.current.resume = None

    @contextmanager
    def deferring(self, deferred: DeferredLayers) -> Iterator[None]:
        """Keep the calls of the upper layers and run them by groups at the last one."""
        self.current.deferred = deferred
        try:
            with attention.over_queries():
                yield
        finally:
            self.current.deferred = None

    def call(self, layer: nn.Module, index: int, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Run a layer at once, skip it, defer it, or run another in its place."""
        current = self.current
        if current.layers is not None and self.is_plain():
            return current.layers[index](*args, **kwargs)

        if "hidden_states" in kwargs:
            args = (kwargs.pop("hidden_states"), *args)
        hidden, *rest = args
        if current.resume is not None and index < self.branch_layer:
            return self._answer(hidden)
        if current.resume is not None and index == self.branch_layer:
            hidden = current.resume
        if current.deferred is None or index < self.branch_layer:
            return type(layer).forward(layer, hidden, *rest, **kwargs)

        current.deferred.calls.append((layer, tuple(rest), kwargs))
        if index == len(self.layers) - 1:
            hidden = self._run_upper(current.deferred, hidden)
        return self._answer(hidden)

    def _answer(self, hidden: Tensor) -> Any:
        if self.returns_tuple:
            return (hidden,)
        return hidden

    def read(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return what the router reads of hidden states (n, tokens, d): unit vectors (n, d).

        The first token of a decoder collects attention that nobody needs, and its state can be a
        hundred times as long as the others' (arXiv 2402.17762): their mean would be that token's.
        """
        if self.evens_tokens:
            hidden = F.normalize(hidden.float(), dim=-1)
        return mean_pool(hidden, mask)

    def _run_upper(self, deferred: DeferredLayers, hidden: Tensor) -> Tensor:
        """Route the rows of ``hidden`` (n, tokens, d), then run the deferred layers by groups."""
        if deferred.route_embeddings is None:
            deferred.route_embeddings = self.read(hidden, deferred.attention_mask)
        if deferred.decide is None:
            deferred.hidden = hidden
            return hidden

        deferred.weights = decided(deferred.decide, deferred.route_embeddings)
        only_mapped = [adapter.kind == Kind.MAP for adapter in deferred.state.experts.values()]
        weights = without_experts(deferred.weights, only_mapped)
        groups = row_groups(weights, hidden.shape[1], deferred.state, self.fused, device=hidden.device)
        # A single group keeps the batch's own order, unless its plan counts rows in another.
        if len(groups) == 1 and not isinstance(groups[0].plan, SlicedPlan):
            return self._run_group(deferred, hidden, None, groups[0].plan)
        output = torch.empty_like(hidden)
        for rows, plan in groups:
            output[rows] = self._run_group(deferred, hidden[rows], rows, plan)
        return output

    def map_groups(self, weights: Vectors, state: ExpertState, device: torch.device) -> list[RowGroup]:
        """Return the rows of a routed batch by the plan of their maps; none where no expert has a map.

        Args:
            weights: of each candidate for each row (n, 2 + E).
            state: the experts that the columns stand for.
            device: of the vectors.
        """
        without = [adapter.kind == Kind.LORA for adapter in state.experts.values()]
        if all(without):
            return []
        return row_groups(without_experts(weights, without), 1, state, self.fused, device=device)

    def _run_group(
        self, deferred: DeferredLayers, hidden: Tensor, rows: Tensor | None, plan: Plan | None
    ) -> Tensor:
        n_rows = len(deferred.attention_mask)
        with self.selection.use(plan):
            for layer, args, kwargs in deferred.calls:
                chosen = tuple(take_rows(value, rows, n_rows) for value in args)
                named = {key: take_rows(value, rows, n_rows) for key, value in kwargs.items()}
                output = type(layer).forward(layer, hidden, *chosen, **named)
                hidden = output[0] if isinstance(output, tuple) else output
        return hidden


class _LayerForward:
    """Stands in for ``layer.forward``."""

    def __init__(self, layered: LayeredPass, layer: nn.Module, index: int) -> None:
        self.layered, self.layer, self.index = layered, layer, index

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.layered.call(self.layer, self.index, args, kwargs)


def decided(decide: RouteDecision, read: Tensor) -> Vectors:
    """Return the weights (n, 2 + E) that route embeddings (n, d) get.

    Routing is in numpy. A CPU shares the memory; an accelerator sends one small array for a batch.
    """
    with one_blas_thread():
        return decide(read.cpu().numpy())


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of each row's tokens at unit length (n, d).

    The sum has the same direction, so nothing is divided.
    """
    return F.normalize(torch.bmm(mask[:, None].float(), hidden.float())[:, 0], dim=-1)
