"""The map behind the base's last module, with which experts change the finished vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from routerretriever.encoder.row_groups import RowGroup
from routerretriever.lora.adapter import VECTOR_MAP
from routerretriever.lora.layers import Plan, Selection, vector_map


class VectorMap:
    """Applies the maps of experts to finished vectors.

    It is no module, so it is no part of the base: neither of its state dict nor of its fingerprint.

    Attributes:
        layer: gives every vector back, unless a plan is in force.
        to_unit_length: whether mapped vectors are normalised, as those of the base are.
    """

    def __init__(self, dimension: int, selection: Selection, *, to_unit_length: bool) -> None:
        self.layer = vector_map(dimension, selection)
        self.to_unit_length = to_unit_length

    def __call__(self, vectors: Tensor, plan: Plan | None) -> Tensor:
        """Return finished vectors (n, d) after the map of a plan."""
        if plan is None or not plan.changes(VECTOR_MAP):
            return vectors
        # Its own precision, whatever the base's is: that may be half, for static embeddings.
        exact = vectors.to(self.layer.weight.dtype)
        with self.layer.selection.use(plan):
            changed: Tensor = self.layer(exact[:, None])[:, 0]
        if self.to_unit_length:
            changed = F.normalize(changed, dim=-1)
        return changed.to(vectors.dtype)

    def by_groups(self, vectors: Tensor, groups: Sequence[RowGroup]) -> Tensor:
        """Return finished vectors (n, d), each after the map of its group."""
        for rows, plan in groups:
            vectors = vectors.index_copy(0, rows, self(vectors[rows], plan))
        return vectors

    def move(self, change: Callable[[Tensor], Tensor]) -> None:
        """Move or cast the layer, as torch asks its modules to."""
        self.layer._apply(change)  # type: ignore[no-untyped-call]
