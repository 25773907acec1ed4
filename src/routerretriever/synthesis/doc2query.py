"""Queries from a model that was trained to write them (docT5query, Nogueira and Lin 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils.import_utils import is_protobuf_available, is_sentencepiece_available

from routerretriever.data.text import stable_hash
from routerretriever.errors import MissingExtraError, ModelError
from routerretriever.progress import Progress, Silent
from routerretriever.synthesis.config import Doc2QueryConfig
from routerretriever.synthesis.journal import Answer, Journal
from routerretriever.synthesis.passages import Passage


def ask_doc2query(
    passages: Sequence[Passage],
    per_passage: int,
    seed: int,
    journal: Journal,
    config: Doc2QueryConfig,
    progress: Progress | None = None,
) -> None:
    """Write queries for every passage that has none in the journal yet.

    Batches are made of all passages and seeded by what is in them, so that an interrupted
    synthesis ends with the queries of an undisturbed one.

    Raises:
        ModelError: the checkpoint cannot be loaded.
        MissingExtraError: its tokeniser needs a package that is not installed.
    """
    starts = range(0, len(passages), config.batch_size)
    batches = [passages[start : start + config.batch_size] for start in starts]
    missing = [batch for batch in batches if any(passage.key not in journal.answers for passage in batch)]
    if not missing:
        return

    writer = _Writer(config)
    with (progress or Silent()).task("write queries", len(passages)) as task:
        task.advance(len(passages) - sum(map(len, missing)))
        for batch in missing:
            contents = [passage.content for passage in batch]
            written = writer.write(contents, per_passage, _batch_seed(batch, seed))
            answers = [
                Answer(key=passage.key, queries=tuple(queries))
                for passage, queries in zip(batch, written, strict=True)
                if passage.key not in journal.answers
            ]
            journal.append(answers)
            task.advance(len(batch))


def _batch_seed(batch: Sequence[Passage], seed: int) -> int:
    keys = ":".join(passage.key for passage in batch)
    return int(stable_hash(f"{seed}:{keys}"), 16) % 2**63


class _Writer:
    """A checkpoint and its tokeniser."""

    def __init__(self, config: Doc2QueryConfig) -> None:
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(config.model)
            model: Any = AutoModelForSeq2SeqLM.from_pretrained(config.model)
        except (OSError, ValueError, KeyError, ImportError) as error:
            # The library's own error names other things than the package that is missing.
            if not isinstance(error, OSError) and (package := _missing_package()):
                raise MissingExtraError("doc2query", package) from error
            raise ModelError(
                f"The query generator '{config.model}' could not be loaded "
                f"({type(error).__name__}: {error}). Give the hub id or path of a "
                "sequence-to-sequence checkpoint (--model), or choose --with mixture, which "
                "needs none."
            ) from error
        device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.eval().to(device)
        self.config = config

    def write(self, texts: list[str], count: int, seed: int) -> list[list[str]]:
        """Return ``count`` queries for each text, decided by the seed."""
        inputs = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.config.read_tokens,
            return_tensors="pt",
        ).to(self.model.device)
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            written = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                top_k=self.config.top_k,
                top_p=self.config.top_p,
                max_new_tokens=self.config.write_tokens,
                num_return_sequences=count,
            )
        queries = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [queries[start : start + count] for start in range(0, len(queries), count)]


def _missing_package() -> str:
    """Return the package that reading a ``spiece.model`` lacks; empty if it lacks none."""
    if not is_sentencepiece_available():
        return "sentencepiece"
    return "" if is_protobuf_available() else "protobuf"
