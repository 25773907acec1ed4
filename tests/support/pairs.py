"""Pairs of tiny bases, one for documents and one for queries in the same space."""

from collections.abc import Sequence
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
)
from tiny import WORDS, make_checkpoint

from routerretriever.encoder.alignment import TEXTS as PROBES

VOCABULARY = (*WORDS, *sorted({word for text in PROBES for word in text.split()}))


def document_base(folder: Path) -> Path:
    """A random encoder that knows the words of the probe texts."""
    return make_checkpoint(folder, words=VOCABULARY)


def query_base(folder: Path, source: Path, noise: float = 0.03, **options) -> Path:
    """The same encoder with a little noise on its weights; with much of it, the two are not aligned."""
    transformer = Transformer(str(source))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in transformer.model.parameters():
            weight += noise * weight.std().nan_to_num() * torch.randn(weight.shape, generator=generator)
    modules = [transformer, Pooling(32, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu", **options).save_pretrained(str(folder))
    return folder


def static_query_base(folder: Path, source: Path, texts: Sequence[str], **options) -> Path:
    """Static embeddings that were fitted to the encoder of documents on the probe texts and others."""
    teacher = SentenceTransformer(str(source), device="cpu")
    tokenizer = teacher.tokenizer.backend_tokenizer
    texts = [*PROBES, *texts]
    counts = torch.zeros(len(texts), tokenizer.get_vocab_size())
    for row, text in enumerate(texts):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        counts[row].index_add_(0, torch.tensor(ids), torch.full((len(ids),), 1 / len(ids)))
    # Tokens that are in none of the texts keep their vectors as single words.
    own = teacher.encode(
        tokenizer.decode_batch([[n] for n in range(counts.shape[1])]), convert_to_tensor=True
    )
    missing = teacher.encode(texts, convert_to_tensor=True) - counts @ own
    gram = counts.T @ counts + 1e-3 * torch.eye(counts.shape[1])
    table = (own + torch.linalg.solve(gram, counts.T @ missing)).contiguous()
    modules = [StaticEmbedding(tokenizer, embedding_weights=table), Normalize()]
    SentenceTransformer(modules=modules, device="cpu", **options).save_pretrained(str(folder))
    return folder
