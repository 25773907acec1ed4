"""Tiny random bases of other kinds than BERT-like encoders."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    BoW,
    Dense,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
)
from tiny import WORDS, make_checkpoint
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModel

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 80,
}
DECODER = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}
ARCHITECTURES = {
    "distilbert": {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 80},
    "electra": {**SIZES, "embedding_size": 32},
    "t5": {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 4,
        "num_heads": 4,
        "decoder_start_token_id": 1,
    },
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 80},
    "qwen3": {**DECODER},
    "llama": {**DECODER},
    "mistral": {**DECODER, "sliding_window": 6},
    "gemma3_text": {
        **DECODER,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "deberta-v2": {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
}


def make_transformer(folder: Path, architecture: str, **options) -> Path:
    """A random transformer of an architecture that is no BERT-like encoder, with mean pooling."""
    make_checkpoint(folder)  # for its tokeniser
    (folder / "model.safetensors").unlink()
    tokens = {"vocab_size": len(WORDS) + 5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    sizes = ARCHITECTURES.get(architecture, SIZES)
    config = AutoConfig.for_model(architecture, **{**tokens, **sizes, **options})
    torch.manual_seed(0)
    AutoModel.from_config(config).eval().save_pretrained(folder)
    return folder


def make_decoder(folder: Path, architecture: str, *, side="left", pooling="lasttoken", **options) -> Path:
    """A random decoder as embedders of its family are published: padded on the left, its last token pooled."""
    make_transformer(folder, architecture, **options)
    edit(folder / "tokenizer_config.json", padding_side=side)
    modules = [Transformer(str(folder)), Pooling(32, pooling), Normalize()]
    prompts = {"query": "word90 word91 ", "document": ""}
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save_pretrained(str(folder))
    return folder


def edit(path: Path, **settings) -> None:
    """Change settings in a file; ``...`` removes one."""
    content = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def word_tokenizer() -> Tokenizer:
    """A tokeniser of whole words."""
    words = {word: number for number, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def random_table(size: int = 48) -> torch.Tensor:
    """A vector for each word."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(len(WORDS) + 1, size, generator=generator)


def save_static(folder: Path, *, dtype=torch.float32, normalize=True) -> Path:
    """A base of static embeddings."""
    modules = [StaticEmbedding(word_tokenizer(), embedding_weights=random_table().to(dtype))]
    if normalize:
        modules.append(Normalize())
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))
    return folder


def save_model2vec(folder: Path) -> Path:
    """The same as model2vec itself saves it."""
    folder.mkdir(parents=True)
    save_file({"embeddings": random_table()}, folder / "model.safetensors")
    word_tokenizer().save(str(folder / "tokenizer.json"))
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def save_bag_of_words(folder: Path) -> Path:
    """A base whose first module computes the vectors while it reads texts."""
    modules = [BoW(vocab=WORDS), Dense(len(WORDS), 32, bias=False), Normalize()]
    torch.manual_seed(0)
    torch.nn.init.normal_(modules[1].linear.weight)
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))
    return folder
