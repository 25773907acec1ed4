"""A base encoder: its transformer, the modules after it, and how texts come into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modules import InputModule, Transformer
from torch import Tensor, nn

from routerretriever.encoder.probes import PROBES, base_fingerprint
from routerretriever.encoder.token_ids import TokenIds, ids_of, prompt_length
from routerretriever.encoder.tokens import TOKENISING, beginning, token_counts
from routerretriever.errors import ModelError
from routerretriever.kernels import attention

# transformers makes torch tensors from lists, number by number; numpy's arrays take less time.
_NUMPY: Any = {"common": {"return_tensors": "np"}}


class BaseEncoder(InputModule):
    """A frozen transformer and its head.

    Attributes:
        transformer: the base's transformer module.
        head: the modules after it: pooling, and possibly dense and normalize.
    """

    def __init__(self, transformer: Transformer, head: Sequence[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.transformer = transformer.requires_grad_(False)
        attention.install(transformer.model.config)
        self.head = nn.ModuleList(head).requires_grad_(False)
        self._fingerprint: str | None = None

    def encode_plainly(self, features: dict[str, Any]) -> dict[str, Any]:
        """Run transformer and head without a router, under the plan in force."""
        return self._pool(self.transformer(features))

    def _pool(self, features: dict[str, Any]) -> dict[str, Any]:
        for module in self.head:
            features = module(features)
        return features

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenise; arguments meant for :meth:`forward` are ignored here.

        Args:
            inputs: texts, or token ids of the base's own tokeniser; see :class:`TokenIds`.
            prompt: put before each.
            kwargs: what Sentence Transformers' own ``preprocess`` takes.
        """
        for key in ("expert", "route_only"):
            kwargs.pop(key, None)
        if any(isinstance(item, TokenIds) for item in inputs):
            return self._padded_ids(inputs, prompt)
        with TOKENISING:
            inputs = [
                beginning(item, self.tokenizer, self.max_seq_length) if isinstance(item, str) else item
                for item in inputs
            ]
            features: dict[str, Any] = self.transformer.preprocess(inputs, prompt=prompt, **kwargs)
        return features

    def _padded_ids(self, inputs: Sequence[str | TokenIds], prompt: str | None) -> dict[str, Any]:
        with TOKENISING:
            rows = [ids_of(item, self.tokenizer, self.max_seq_length, prompt or "") for item in inputs]
            features = dict(self.tokenizer.pad({"input_ids": rows}, return_tensors="pt"))
        if prompt:
            features["prompt_length"] = prompt_length(prompt, self.tokenizer)
        return features

    def tokenized(
        self, texts: Sequence[str | TokenIds], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Tokenise onto the model's device."""
        device = next(self.transformer.parameters()).device
        features = self.preprocess(list(texts), prompt, processing_kwargs=_NUMPY, **kwargs)
        placed: dict[str, Any] = {}
        for key, value in features.items():
            if isinstance(value, np.ndarray):
                value = torch.from_numpy(value)
            if isinstance(value, Tensor):
                value = value.to(device)
            placed[key] = value
        return placed

    def tokenized_queries(self, queries: Sequence[str | TokenIds], prompt: str | None) -> dict[str, Any]:
        """Tokenise queries as Sentence Transformers' ``encode_query`` does, onto the model's device."""
        return self.tokenized(queries, prompt, task="query")

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens are read of each text, without a prompt."""
        return token_counts(texts, self.tokenizer, self.max_seq_length)

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the base's vectors: weights, tokeniser, pooling."""
        if self._fingerprint is None:
            ids = self.transformer.preprocess(list(PROBES))["input_ids"].tolist()
            self._fingerprint = base_fingerprint(self.state_dict(), self.head, ids, self.max_seq_length)
        return self._fingerprint

    @property
    def max_seq_length(self) -> int | None:
        """Longest input in tokens; the rest of a text is cut off."""
        length: int | None = self.transformer.max_seq_length
        return length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.transformer.max_seq_length = value
        self._fingerprint = None

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]
        """The base's tokeniser."""
        return self.transformer.tokenizer

    @property
    def dimension(self) -> int:
        """Length of the sentence embeddings."""
        for module in reversed(self.head):
            for attribute in ("out_features", "pooling_output_dimension"):
                if hasattr(module, attribute):
                    return int(getattr(module, attribute))
        raise ModelError("The base has no pooling module.")

    def get_embedding_dimension(self) -> int:
        """Return Sentence Transformers' name for :attr:`dimension`."""
        return self.dimension
