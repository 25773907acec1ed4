"""Tiny cross-encoders, and what is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel


def make_cross_encoder(base: Path, folder: Path, labels: int = 1) -> Path:
    """Write a random cross-encoder with the tokenizer of a tiny base."""
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(str(base))
    config.num_labels = labels
    BertForSequenceClassification(config).save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(str(base)).save_pretrained(str(folder))
    return folder


def make_plain_encoder(base: Path, folder: Path) -> Path:
    """Write an encoder without a scoring head."""
    shutil.copytree(base, folder)
    BertModel(BertConfig.from_pretrained(str(base))).save_pretrained(str(folder))
    return folder
