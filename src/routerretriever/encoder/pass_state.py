"""What a thread's forward pass is doing besides the plain base."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from routerretriever.expert_state import ExpertState
from routerretriever.kernels.vectors import Vectors

RouteDecision = Callable[[Vectors], Vectors]
"""Route embeddings (n, d) → weights (n, 2 + E) of base, merged and each expert; rows sum to 1."""


@dataclass(slots=True, kw_only=True)
class DeferredLayers:
    """The calls of the upper layers, kept until the last of them is reached.

    Attributes:
        decide: says what encodes each row; ``None`` keeps the hidden states entering the branch layer
            and runs nothing above.
        state: the experts that ``decide`` chooses among.
        attention_mask: of the batch (n, tokens).
        calls: of the upper layers: the layer, and its arguments without the hidden states.
        hidden: what enters the branch layer (n, tokens, d), where the pass stops there.
        route_embeddings: what the router read (n, d).
        weights: what ``decide`` answered (n, 2 + E).
    """

    decide: RouteDecision | None
    state: ExpertState
    attention_mask: Tensor
    calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    hidden: Tensor | None = None
    route_embeddings: Tensor | None = None
    weights: Vectors | None = None


class PassState(threading.local):
    """The pass of this thread.

    Attributes:
        deferred: the upper layers, while a batch is being routed.
        resume: hidden states (n, tokens, d) with which the branch layer begins, instead of running
            the layers below it.
        layers: copies of all layers that run in place of the base's own, such as those in 8 bits.
    """

    deferred: DeferredLayers | None = None
    resume: Tensor | None = None
    layers: Sequence[nn.Module] | None = None

    def __reduce__(self) -> tuple[type[PassState], tuple[()]]:
        return PassState, ()
