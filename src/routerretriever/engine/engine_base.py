"""A base in a compiled engine: how it reads texts, and its graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from routerretriever.encoder.text_tokenizer import TextTokenizer
from routerretriever.encoder.token_ids import TokenIds
from routerretriever.engine.engine_info import COMPILE_AGAIN, ENGINE, FP32, TOKENIZER, EngineInfo
from routerretriever.engine.routed_pass import RoutedPass
from routerretriever.errors import EngineError, FormatError
from routerretriever.kernels.vectors import Vectors


class EngineBase:
    """A base whose graphs are opened when they are first needed.

    Args:
        model: folder of the model, or of its base of documents.
        info: of the engine there.
        threads: that one batch uses; default one a core.

    Attributes:
        info: the same.
        folder: of the engine.
        tokenizer: reads texts.
        passes: runs the graphs of queries.

    Raises:
        EngineError: the tokeniser cannot be read.
    """

    def __init__(self, model: Path, info: EngineInfo, threads: int | None) -> None:
        self.info = info
        self.folder = model / ENGINE
        self._by_precision = {FP32: RoutedPass(info, self.folder, threads)}
        if info.precision != FP32:
            self._by_precision[info.precision] = RoutedPass(info, self.folder, threads, info.precision)
        self.passes = self._by_precision[info.precision]
        try:
            self.tokenizer = TextTokenizer(self.folder / TOKENIZER, info.tokenizer)
        except FormatError as error:
            raise EngineError(f"{error} {COMPILE_AGAIN}") from error

    @property
    def precisions(self) -> Sequence[str]:
        """In which documents can be encoded."""
        return tuple(self._by_precision)

    def encode(self, texts: Sequence[str | TokenIds], prompt: str | None, precision: str = FP32) -> Vectors:
        """Return vectors (n, d) of documents, as texts or token ids, by the base."""
        return self._by_precision[precision].base(self.tokenizer.batch(texts, prompt), prompt)
