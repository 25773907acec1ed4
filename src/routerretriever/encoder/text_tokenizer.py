"""The base's tokeniser, by the ``tokenizers`` library alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer

from routerretriever.encoder.token_ids import TokenIds, ids_of
from routerretriever.encoder.tokens import beginning
from routerretriever.errors import FormatError


class TokenizerInfo(BaseModel):
    """How the base reads texts, beyond what its tokeniser's file says.

    Attributes:
        pad_id: put after shorter texts of a batch.
        special_ids: ids of special tokens, without that of unknown words.
        max_seq_length: tokens that are read of a text; ``None`` for all.
        truncation_side: where a longer text is cut: ``right`` or ``left``.
    """

    model_config = ConfigDict(frozen=True)

    pad_id: int
    special_ids: tuple[int, ...]
    max_seq_length: int | None
    truncation_side: str


class TokenBatch(NamedTuple):
    """Token ids (n, t), padded, and which of them count (n, t)."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]


class TextTokenizer:
    """Turns texts into token ids as the base's own tokeniser does; safe to use from several threads.

    Args:
        path: of ``tokenizer.json``.
        info: what that file does not say.

    Raises:
        FormatError: the file cannot be read.
    """

    unk_token_id = None

    def __init__(self, path: Path, info: TokenizerInfo) -> None:
        self._info = info
        self.all_special_ids = info.special_ids
        self.truncation_side = info.truncation_side
        # Two, because one that is changed while another thread uses it fails.
        self._whole, self._cut = _load(path), _load(path)
        self._whole.no_truncation()
        if info.max_seq_length is not None:
            self._cut.enable_truncation(info.max_seq_length, direction=info.truncation_side)

    def __len__(self) -> int:
        return int(self._whole.get_vocab_size())

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The library's own, which cuts nothing off."""
        return self._whole

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens are put around a text."""
        return int(self._whole.num_special_tokens_to_add(pair))

    def __call__(
        self,
        texts: str | Sequence[str],
        truncation: bool = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
    ) -> dict[str, Any]:
        """Return ``input_ids`` as transformers' tokenisers do, for those who can use either.

        Args:
            texts: one or several.
            truncation: cut to the base's length.
            max_length: that length; there is no other.
            add_special_tokens: put those around each text.
        """
        tokenizer = self._cut if truncation else self._whole
        if isinstance(texts, str):
            return {"input_ids": tokenizer.encode(texts, add_special_tokens=add_special_tokens).ids}
        encoded = tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return {"input_ids": [item.ids for item in encoded]}

    def batch(self, inputs: Sequence[str | TokenIds], prompt: str | None) -> TokenBatch:
        """Return the tokens that the base reads of texts, or of ids, each after a prompt."""
        length = self._info.max_seq_length
        if any(isinstance(item, TokenIds) for item in inputs):
            rows = [ids_of(item, self, length, prompt or "") for item in inputs]
        else:
            texts = [(prompt or "") + beginning(str(item), self, length) for item in inputs]
            rows = self(texts, truncation=True)["input_ids"]
        return self._padded(rows)

    def _padded(self, rows: Sequence[Sequence[int]]) -> TokenBatch:
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self._info.pad_id, np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return TokenBatch(ids, mask)


def _load(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower kind
        raise FormatError(f"The tokeniser {path} cannot be read ({error}).") from error
    tokenizer.no_padding()
    return tokenizer
