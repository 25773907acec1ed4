"""Queries from a sequence-to-sequence model that was trained to write them (docT5query, Nogueira and Lin 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from routerretriever.data.text import stable_hash
from routerretriever.errors import MissingExtraError, ModelError
from routerretriever.progress import Progress, Silent
from routerretriever.synthesis.journal import Answer, Journal
from routerretriever.synthesis.passages import Passage

DOC2QUERY_MODEL = "BeIR/query-gen-msmarco-t5-base-v1"


@dataclass(frozen=True, slots=True)
class Doc2QueryConfig:
    """How a sequence-to-sequence model is asked.

    Attributes:
        model: hub id or path of a checkpoint for ``AutoModelForSeq2SeqLM``.
        batch_size: passages at once. It decides which random numbers a passage gets, so it is part of what must stay
            the same when an interrupted generation goes on.
        top_k, top_p: tokens are drawn from the ``top_k`` likeliest, of those from the share ``top_p`` of probability.
        read_tokens, write_tokens: of a passage, and of a query at most.
        device: torch device; default the best one present.
    """

    model: str = DOC2QUERY_MODEL
    batch_size: int = 16
    top_k: int = 25
    top_p: float = 0.95
    read_tokens: int = 350
    write_tokens: int = 64
    device: str | None = None

    def settings(self) -> dict[str, Any]:
        """What decides the answers."""
        return {
            "model": self.model,
            "batch_size": self.batch_size,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "read_tokens": self.read_tokens,
            "write_tokens": self.write_tokens,
        }


def ask_doc2query(
    passages: Sequence[Passage],
    per_passage: int,
    seed: int,
    journal: Journal,
    config: Doc2QueryConfig,
    progress: Progress | None = None,
) -> None:
    """Write queries for every passage that has none in the journal yet.

    Batches are made of all passages and seeded by what is in them, so that an interrupted generation ends with the
    queries of an undisturbed one.

    Raises:
        ModelError: the checkpoint cannot be loaded.
        MissingExtraError: its tokeniser needs a package that is not installed.
    """
    starts = range(0, len(passages), config.batch_size)
    batches = [passages[start : start + config.batch_size] for start in starts]
    todo = [batch for batch in batches if any(passage.key not in journal.answers for passage in batch)]
    if not todo:
        return
    writer = _Writer(config)
    with (progress or Silent()).task("write queries", len(passages)) as task:
        task.advance(len(passages) - sum(map(len, todo)))
        for batch in todo:
            texts = writer.write([passage.content for passage in batch], per_passage, _batch_seed(batch, seed))
            journal.append(
                [
                    Answer(passage.key, tuple(queries))
                    for passage, queries in zip(batch, texts, strict=True)
                    if passage.key not in journal.answers
                ]
            )
            task.advance(len(batch))


def _batch_seed(batch: Sequence[Passage], seed: int) -> int:
    return int(stable_hash(f"{seed}:" + ":".join(passage.key for passage in batch)), 16) % 2**63


def _missing_package() -> str:
    """What transformers needs to read a ``spiece.model``, if it is not installed; its own error names other things."""
    from transformers.utils.import_utils import is_protobuf_available, is_sentencepiece_available

    if not is_sentencepiece_available():
        return "sentencepiece"
    return "" if is_protobuf_available() else "protobuf"


class _Writer:
    """A checkpoint and its tokeniser."""

    def __init__(self, config: Doc2QueryConfig) -> None:
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(config.model)
            model: Any = AutoModelForSeq2SeqLM.from_pretrained(config.model)
        except (OSError, ValueError, KeyError, ImportError) as error:
            if not isinstance(error, OSError) and (package := _missing_package()):
                raise MissingExtraError("doc2query", package) from error
            raise ModelError(
                f"The query generator '{config.model}' could not be loaded ({type(error).__name__}: {error}). Give the "
                "hub id or path of a sequence-to-sequence checkpoint (--model), or --with mixture, which needs none."
            ) from error
        device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.config = model.eval().to(device), config

    def write(self, texts: list[str], count: int, seed: int) -> list[list[str]]:
        """``count`` queries for each text, decided by the seed."""
        import torch

        inputs = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.config.read_tokens, return_tensors="pt"
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
