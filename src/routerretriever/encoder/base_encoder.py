"""A base encoder: the modules of a Sentence Transformers model, and how texts come into them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.modules import InputModule, Transformer
from torch import Tensor, nn

from routerretriever.encoder.probes import base_fingerprint
from routerretriever.encoder.text_input import TextInput, input_of
from routerretriever.encoder.token_ids import TokenIds
from routerretriever.errors import ModelError

# transformers makes torch tensors from lists, number by number; numpy's arrays take less time.
_NUMPY: Any = {"common": {"return_tensors": "np"}}


class BaseEncoder(InputModule):
    """A frozen base.

    Attributes:
        body: the base's first module: a transformer, or anything else that reads texts.
        head: the modules after it: pooling, and possibly dense and normalize.
        text: how texts come into the body.
    """

    def __init__(self, body: InputModule, head: Sequence[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.body = body.requires_grad_(False)
        self.head = nn.ModuleList(head).requires_grad_(False)
        self.text: TextInput = input_of(body)
        self._fingerprint: str | None = None
        self._dimension: int | None = None

    def encode_plainly(self, features: dict[str, Any]) -> dict[str, Any]:
        """Run all modules without a router, under the plan in force."""
        return self._pool(self.body(features))

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

        Raises:
            ModelError: token ids come, and the base has no tokeniser for them.
        """
        return self._read(inputs, prompt, **kwargs)

    def _read(self, inputs: Sequence[Any], prompt: str | None, **kwargs: Any) -> dict[str, Any]:
        for key in ("expert", "route_only"):
            kwargs.pop(key, None)
        return self.text.preprocess(inputs, prompt, **kwargs)

    def tokenized(
        self, texts: Sequence[str | TokenIds], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Tokenise onto the model's device."""
        device = self.device
        features = self._read(list(texts), prompt, processing_kwargs=_NUMPY, **kwargs)
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
        """Return how many tokens are read of each text, without a prompt; an estimate where the base does not say."""
        return self.text.token_counts(texts)

    def counted(self, texts: Sequence[str | TokenIds], features: dict[str, Any]) -> NDArray[np.int64]:
        """Return how many tokens were read of each text (n,), prompt included where the base says.

        Args:
            texts: of the batch.
            features: made of them.
        """
        if "attention_mask" in features:
            counts: NDArray[np.int64] = features["attention_mask"].sum(dim=1).cpu().numpy()
            return counts
        return np.array(self.token_counts([text for text in texts if isinstance(text, str)]), np.int64)

    @property
    def device(self) -> torch.device:
        """Where the base computes."""
        tensors = chain(self.body.parameters(), self.body.buffers(), self.head.parameters())
        first = next(tensors, None)
        return torch.device("cpu") if first is None else first.device

    @property
    def keeps_vectors(self) -> bool:
        """Whether the base keeps its vectors on disk by itself."""
        return bool(getattr(self.body, "keeps_vectors", False))

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the base's vectors: weights, tokeniser, pooling."""
        if self._fingerprint is None:
            # Fingerprints of the first version are of these names.
            weights = self.body.state_dict(prefix="transformer.") | self.head.state_dict(prefix="head.")
            described = list(self.head)
            if not isinstance(self.body, Transformer):
                described.insert(0, self.body)
            self._fingerprint = base_fingerprint(
                weights, described, self.text.probe_ids(), self.max_seq_length
            )
        return self._fingerprint

    @property
    def max_seq_length(self) -> int | None:
        """Longest input in tokens, after which a text is cut off; ``None`` where nothing is cut off here."""
        return self.text.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        body: Any = self.body
        body.max_seq_length = value
        self._fingerprint = None

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]
        """The base's tokeniser; ``None`` where it has none that takes token ids."""
        return self.text.tokenizer

    @property
    def dimension(self) -> int:
        """Length of the sentence embeddings.

        Raises:
            ModelError: the base does not give one vector for a text.
        """
        if self._dimension is None:
            self._dimension = self._stated_dimension() or self._seen_dimension()
        return self._dimension

    def _stated_dimension(self) -> int | None:
        for module in reversed(self.head):
            for attribute in ("out_features", "pooling_output_dimension"):
                if hasattr(module, attribute):
                    return int(getattr(module, attribute))
        return None

    def _seen_dimension(self) -> int:
        """Return the length of a vector that the base gives."""
        with torch.no_grad():
            found = BaseEncoder.encode_plainly(self, self.tokenized(["a"])).get("sentence_embedding")
        if not isinstance(found, Tensor) or found.ndim != 2 or found.is_sparse:
            kinds = ", ".join(type(module).__name__ for module in (self.body, *self.head))
            raise ModelError(
                f"The base does not give one dense vector for a text; its modules are: {kinds}. Use a dense "
                "single-vector encoder such as sentence-transformers/all-MiniLM-L6-v2."
            )
        return int(found.shape[1])

    def get_embedding_dimension(self) -> int:
        """Return Sentence Transformers' name for :attr:`dimension`."""
        return self.dimension
