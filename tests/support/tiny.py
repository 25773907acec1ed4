"""Tiny random encoders and collections, so that most tests need neither network nor weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from routerretriever.errors import ModelError
from routerretriever.kernels.quantization import Int8Linear
from routerretriever.lora.adapter import Adapter


def _multiplies_integers() -> bool:
    try:
        Int8Linear(torch.nn.Linear(8, 8))(torch.eye(8))
    except (ModelError, RuntimeError):
        return False
    return True


WORDS = [f"word{n}" for n in range(200)] + ["zap", "cord", "lamp", "tide"]
needs_int8 = pytest.mark.skipif(not _multiplies_integers(), reason="torch multiplies no integers here")
ARCHITECTURES = ("bert", "roberta", "mpnet", "xlm-roberta", "modernbert")


def make_checkpoint(
    directory: Path,
    architecture: str = "bert",
    pooling: str = "mean",
    words: Sequence[str] = tuple(WORDS),
    dimension: int = 32,
) -> Path:
    """A random encoder of four layers, saved the way hub checkpoints are."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {token: number for number, token in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=64,
    ).save_pretrained(directory)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(vocabulary),
        hidden_size=dimension,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=80,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        cls_token_id=0,
        sep_token_id=2,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    AutoModel.from_config(config).eval().save_pretrained(directory)
    if pooling == "cls":
        transformer = Transformer(str(directory))
        SentenceTransformer(modules=[transformer, Pooling(dimension, "cls")], device="cpu").save_pretrained(
            str(directory)
        )
    return directory


def random_adapter(layers, seed, rank=4) -> Adapter:
    """An expert that learnt nothing, but changes every layer."""
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: (
            torch.randn(rank, layer.in_features, generator=generator),
            torch.randn(layer.out_features, rank, generator=generator),
        )
        for name, layer in layers.items()
    }
    return Adapter(factors, 0.05)


def write_beir(directory: Path, corpus, queries, qrels) -> Path:
    """A BEIR folder from plain data: {id: text}, {id: text}, {split: {query: {doc: grade}}}."""
    (directory / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in rows.items()]
        (directory / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for split, judged in qrels.items():
        lines = ["query-id\tcorpus-id\tscore"]
        lines += [f"{q}\t{d}\t{grade}" for q, grades in judged.items() for d, grade in grades.items()]
        (directory / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


def collection_maker(root: Path):
    """A function that writes collections below a folder; queries name things by other words than documents do."""

    def make(name: str, shift: int = 1, documents: int = 60, with_train: bool = True) -> Path:
        rng = np.random.default_rng(shift)
        alias = rng.permutation(100)
        corpus, queries, qrels = {}, {}, {"train": {}, "dev": {}, "test": {}}
        for number in range(documents):
            topic, plain = number % 4, rng.choice(np.arange(50, 100), 2, replace=False)
            corpus[f"d{number}"] = f"word{topic} word{topic} word{plain[0]} word{plain[1]}"
            split = "test" if number % 5 == 0 else "dev" if number % 5 == 1 else "train"
            for variant in range(2):
                other = 100 + alias[topic]
                queries[f"q{number}-{variant}"] = f"word{other} word{other} word{plain[variant]}"
                qrels[split][f"q{number}-{variant}"] = {f"d{number}": 1}
        return write_beir(root / name, corpus, queries, qrels if with_train else {"test": qrels["test"]})

    return make
