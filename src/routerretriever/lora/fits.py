"""Whether an adapter is made for the layers of a base."""

from __future__ import annotations

from collections.abc import Mapping

from routerretriever.errors import ExpertError
from routerretriever.lora.adapter import VECTOR_MAP, Adapter


def check_fits(adapter: Adapter, shapes: Mapping[str, tuple[int, int]], what: str) -> None:
    """Refuse an adapter whose factors are not for these layers.

    Args:
        adapter: to be used with the layers.
        shapes: name → shape (out, in) of the weight of each layer that experts may change.
        what: the adapter, for the error.

    Raises:
        ExpertError: names the layer.
    """
    for name, (a, b) in adapter.factors.items():
        if name not in shapes and set(shapes) == {VECTOR_MAP}:
            raise ExpertError(
                f"{what} changes layers of the base, which cannot be opened here. Train a map instead "
                "(kind='map', --kind map)."
            )
        if name not in shapes:
            raise ExpertError(
                f"{what} changes '{name}', which experts of this model may not change. Create the model "
                "with a lower branch layer (branch_layer=0 allows all)."
            )
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise ExpertError(
                f"{what} has factors of the shapes {tuple(a.shape)} and {tuple(b.shape)} for the "
                f"layer '{name}', which have no product. Export the adapter again."
            )
        outputs, inputs = shapes[name]
        if (b.shape[0], a.shape[1]) != (outputs, inputs):
            raise ExpertError(
                f"{what} does not fit layer '{name}': it is made for a weight of "
                f"{b.shape[0]}×{a.shape[1]}, this base has {outputs}×{inputs}."
            )
