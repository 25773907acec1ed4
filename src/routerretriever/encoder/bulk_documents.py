"""Encode documents in bulk: batches of a fixed number of tokens, in bfloat16 or 8 bits on request.

A batch of thirty-two long documents moves more memory than a processor's caches hold,
and one of thirty-two short ones does not keep it busy. Batches of about as many tokens
each do neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch

from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.encoder.token_batches import batches
from routerretriever.errors import ModelError
from routerretriever.kernels.quantization import has_bfloat16
from routerretriever.kernels.vectors import Vectors

PRECISIONS = ("fp32", "bf16", "int8", "auto")
BATCH_TOKENS = {"cpu": 1024, "cuda": 32_768}
"""Tokens of one batch, padding included."""
WHOLE_BATCH_TOKENS = 65_536
"""The same for a base without a tokeniser: it has no padding to save, or batches of its own."""


class DocumentEncoder(Protocol):
    """What encoding documents in bulk needs of a model."""

    @property
    def encoder(self) -> RoutedEncoder:
        """The base encoder."""

    @property
    def device(self) -> torch.device:
        """Where the model computes."""

    def encode_document(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Encode documents (n, d) by the base."""


def resolved_precision(precision: str, device: torch.device, *, is_opened: bool = True) -> str:
    """Return ``fp32``, ``bf16`` or ``int8``; ``auto`` is bf16 if the device multiplies in bfloat16.

    Raises:
        ModelError: there is no such precision, or not for this base or on its device.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"There is no precision '{precision}'. Choose one of: {', '.join(PRECISIONS)}.")
    if not is_opened:
        if precision in ("bf16", "int8"):
            raise ModelError(
                f"The base cannot be opened, so it keeps its own precision. Choose fp32 or auto, not {precision}."
            )
        return "fp32"
    if precision == "int8" and device.type != "cpu":
        raise ModelError(
            f"int8 is for processors, and this model is on '{device.type}'. Choose bf16 or auto."
        )
    if precision == "auto":
        return "bf16" if has_bfloat16(device) else "fp32"
    return precision


def encode_documents(
    model: DocumentEncoder,
    texts: Sequence[str],
    *,
    precision: str = "fp32",
    done: Callable[[int], None] | None = None,
) -> Vectors:
    """Return document vectors (n, d), float32: those of ``encode_document`` up to rounding, in less time.

    Args:
        model: its base encodes.
        texts: any number of them.
        precision: ``fp32``; ``bf16`` computes products and attention in bfloat16;
            ``auto`` does where the device has instructions for it; ``int8``, for
            processors, computes the layers' products in 8 bits, which costs accuracy: a
            document's vector then depends a little on its batch.
        done: is told after each batch how many texts it had.
    """
    encoder = model.encoder.documents
    vectors = np.empty((len(texts), encoder.dimension), np.float32)
    lengths = encoder.token_counts(texts)
    tokens = BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cpu"])
    if encoder.tokenizer is None:
        tokens = WHOLE_BATCH_TOKENS
    resolved = resolved_precision(precision, model.device, is_opened=encoder.is_opened)
    with _computing_in(resolved, model):
        for rows in batches(lengths, tokens):
            part = model.encode_document(
                [texts[row] for row in rows], batch_size=len(rows), show_progress_bar=False
            )
            vectors[rows] = part
            if done is not None:
                done(len(rows))
    return vectors


def _computing_in(precision: str, model: DocumentEncoder) -> AbstractContextManager[object]:
    if precision == "int8":
        return model.encoder.documents.in_int8()
    if precision == "bf16":
        return torch.autocast(model.device.type, dtype=torch.bfloat16)
    return nullcontext()
