"""How texts come into a base: by a transformer's tokeniser, or by whatever reads them in another module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from sentence_transformers.base.modules import InputModule, Transformer
from torch import Tensor

from routerretriever.encoder.onnx_encoder import OnnxEncoder
from routerretriever.encoder.silent import PROBES
from routerretriever.encoder.text_tokenizer import TextTokenizer
from routerretriever.encoder.token_ids import TokenIds, ids_of, prompt_length
from routerretriever.encoder.tokens import TOKENISING, beginning, token_counts
from routerretriever.errors import ModelError

_SIDE = "right"
_CHARACTERS_PER_TOKEN = 4
"""Of most languages and tokenisers, where a base does not say how it counts."""


class TextInput(Protocol):
    """Reads texts for a base."""

    @property
    def tokenizer(self) -> Any | None:
        """A tokeniser whose ids can stand for a text; ``None`` where there is none."""

    @property
    def max_seq_length(self) -> int | None:
        """Longest input in tokens; ``None`` where nothing is cut off."""

    def preprocess(self, inputs: Sequence[Any], prompt: str | None, **kwargs: Any) -> dict[str, Any]:
        """Return what the base's first module reads of some texts."""

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens are read of each text, without a prompt."""

    def probe_ids(self) -> Any:
        """Return what is read of the probe texts, as plain data."""

    def own_settings(self) -> AbstractContextManager[None]:
        """Within the block, files of the base can be written with its own settings."""


class TransformerInput:
    """Tokenises for a transformer."""

    def __init__(self, transformer: Transformer) -> None:
        """Let a transformer pad on the right, whatever its own side is.

        A text's vector is then the one that it has alone: its tokens are counted from the first, and
        a causal mask hides the padding after them.

        Raises:
            ModelError: the tokeniser has no token to pad with, and the base names none.
        """
        self._transformer = transformer
        tokenizer = self.tokenizer
        if tokenizer is None:
            raise ModelError("The base has no tokeniser. Use a text encoder.")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = self._stated_pad_token()
        self._own_side = tokenizer.padding_side
        tokenizer.padding_side = _SIDE

    def _stated_pad_token(self) -> str:
        """Return the token that the base's own configuration pads with: often the one that ends a text."""
        number = getattr(self._transformer.model.config, "pad_token_id", None)
        if number is None:
            raise ModelError(
                "The base's tokeniser has no pad token, and its config.json names no pad_token_id, so texts "
                "cannot share a batch. Set pad_token in a copy's tokenizer_config.json, for example to its "
                "eos_token."
            )
        token: str = self.tokenizer.convert_ids_to_tokens(number)
        return token

    @contextmanager
    def own_settings(self) -> Iterator[None]:
        """Give the tokeniser its own padding side back, so that files are those of the base."""
        with TOKENISING:
            self.tokenizer.padding_side = self._own_side
            try:
                yield
            finally:
                self.tokenizer.padding_side = _SIDE

    @property
    def tokenizer(self) -> Any:
        return self._transformer.tokenizer

    @property
    def max_seq_length(self) -> int | None:
        length: int | None = self._transformer.max_seq_length
        return length

    def preprocess(self, inputs: Sequence[Any], prompt: str | None, **kwargs: Any) -> dict[str, Any]:
        if any(isinstance(item, TokenIds) for item in inputs):
            return self._padded_ids(inputs, prompt)
        with TOKENISING:
            inputs = [
                beginning(item, self.tokenizer, self.max_seq_length) if isinstance(item, str) else item
                for item in inputs
            ]
            features: dict[str, Any] = self._transformer.preprocess(inputs, prompt=prompt, **kwargs)
        return features

    def _padded_ids(self, inputs: Sequence[str | TokenIds], prompt: str | None) -> dict[str, Any]:
        with TOKENISING:
            rows = [ids_of(item, self.tokenizer, self.max_seq_length, prompt or "") for item in inputs]
            features = dict(self.tokenizer.pad({"input_ids": rows}, return_tensors="pt"))
        if prompt:
            features["prompt_length"] = prompt_length(prompt, self.tokenizer)
        return features

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return token_counts(texts, self.tokenizer, self.max_seq_length)

    def probe_ids(self) -> Any:
        return self._transformer.preprocess(list(PROBES))["input_ids"].tolist()


class GraphInput:
    """Tokenises for an ONNX graph."""

    def __init__(self, module: OnnxEncoder) -> None:
        self._module = module

    @property
    def tokenizer(self) -> TextTokenizer:
        return self._module.text_tokenizer

    @property
    def max_seq_length(self) -> int | None:
        return self._module.max_seq_length

    def preprocess(self, inputs: Sequence[Any], prompt: str | None, **kwargs: Any) -> dict[str, Any]:
        return self._module.preprocess(inputs, prompt)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return token_counts(texts, self.tokenizer, self.max_seq_length)

    def own_settings(self) -> AbstractContextManager[None]:
        return nullcontext()

    def probe_ids(self) -> Any:
        return self._module.preprocess(PROBES)["input_ids"].tolist()


class ModuleInput:
    """Lets another module read texts: static embeddings, or a base on another machine."""

    tokenizer = None

    def __init__(self, module: InputModule) -> None:
        self._module = module

    @property
    def max_seq_length(self) -> int | None:
        length = getattr(self._module, "max_seq_length", None)
        # Sentence Transformers' static embeddings say infinity.
        return length if isinstance(length, int) else None

    def preprocess(self, inputs: Sequence[Any], prompt: str | None, **kwargs: Any) -> dict[str, Any]:
        if any(isinstance(item, TokenIds) for item in inputs):
            raise ModelError("This base reads texts, not token ids. Send texts.")
        kwargs.pop("processing_kwargs", None)  # they are a transformer's
        features: dict[str, Any] = self._module.preprocess(list(inputs), prompt=prompt, **kwargs)
        return features

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [1 + len(text) // _CHARACTERS_PER_TOKEN for text in texts]

    def own_settings(self) -> AbstractContextManager[None]:
        return nullcontext()

    def probe_ids(self) -> Any:
        read = self._module.preprocess(list(PROBES))
        return {
            key: value.tolist() if isinstance(value, Tensor) else value for key, value in sorted(read.items())
        }


def input_of(body: InputModule) -> TextInput:
    """Return how texts come into the first module of a base."""
    if isinstance(body, Transformer):
        return TransformerInput(body)
    if isinstance(body, OnnxEncoder):
        return GraphInput(body)
    return ModuleInput(body)
