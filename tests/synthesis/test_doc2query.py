"""A tiny sequence-to-sequence checkpoint writes queries."""

import re
import shutil
import sys
from dataclasses import replace

import pytest
import sentencepiece
import torch
from documents import texts
from synthesis_server import answers_in
from tiny import WORDS
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from routerretriever import Collection
from routerretriever.errors import MissingExtraError, ModelError, SynthesisError
from routerretriever.synthesis import Doc2QueryConfig, SynthesisConfig, synthesize
from routerretriever.synthesis.journal import Journal


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A tiny random T5, saved as hub checkpoints are."""
    directory = tmp_path_factory.mktemp("tiny-t5")
    vocabulary = {token: number for number, token in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(directory)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(vocabulary),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(directory)
    return directory


def asking(writer, **changes):
    generator = Doc2QueryConfig(model=str(writer), batch_size=8, write_tokens=6, device="cpu")
    return replace(SynthesisConfig(method="doc2query", queries=60, k=30, doc2query=generator), **changes)


def test_doc2query_writes_a_collection(writer, model, few, tmp_path):
    report = synthesize(few, tmp_path / "out", model=model, config=asking(writer))
    assert report.generated == 60
    assert set(Collection.load(tmp_path / "out").generated.values()) == {"doc2query"}
    queries = [query for record in answers_in(tmp_path / "out").values() for query in record["queries"]]
    assert len(set(queries)) > 50  # sampled, not the likeliest for all
    assert not any("<pad>" in query or "</s>" in query for query in queries)
    again = synthesize(few, tmp_path / "again", model=model, config=asking(writer))
    assert answers_in(tmp_path / "again") == answers_in(tmp_path / "out")
    assert again.settings["model"] == str(writer)
    synthesize(few, tmp_path / "other", model=model, config=asking(writer, seed=1))
    assert answers_in(tmp_path / "other") != answers_in(tmp_path / "out")


def test_interrupted_doc2query_ends_with_the_same_queries(writer, model, few, tmp_path, monkeypatch):
    synthesize(few, tmp_path / "whole", model=model, config=asking(writer))
    append, calls = Journal.append, []

    def interrupted(self, answers):
        calls.append(len(answers))
        if len(calls) == 2:
            append(self, answers[:3])  # half a batch
            raise KeyboardInterrupt
        append(self, answers)

    monkeypatch.setattr(Journal, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthesize(few, tmp_path / "out", model=model, config=asking(writer))
    assert len(answers_in(tmp_path / "out")) == 11
    assert not (tmp_path / "out").exists()
    calls.extend([0, 0])
    synthesize(few, tmp_path / "out", model=model, config=asking(writer))
    assert calls[4:] == [5, 8, 6]  # what was there is not written again
    assert answers_in(tmp_path / "out") == answers_in(tmp_path / "whole")
    for file in ("queries.jsonl", "qrels/train.tsv"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_changed_settings_do_not_mix_with_old_answers(writer, model, few, tmp_path):
    synthesize(few, tmp_path / "out", model=model, config=asking(writer))
    with pytest.raises(SynthesisError, match=r"begun with other settings \(seed changed\)"):
        synthesize(few, tmp_path / "out", model=model, config=asking(writer, seed=1), force=True)
    # The filter is no part of what was paid for.
    report = synthesize(few, tmp_path / "out", model=model, config=asking(writer, k=12), force=True)
    assert report.settings["k"] == 12


def test_a_missing_checkpoint_is_named(model, few, tmp_path):
    with pytest.raises(ModelError, match="nothing-here.*--with mixture"):
        synthesize(few, tmp_path / "out", model=model, config=asking(tmp_path / "nothing-here"))


@pytest.fixture(scope="module")
def published(writer, tmp_path_factory):
    """The same as the default checkpoint was published: a SentencePiece model and a pickle, nothing else."""
    directory = tmp_path_factory.mktemp("spiece-t5")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts(300)),
        model_prefix=str(directory / "spiece"),
        vocab_size=100,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (directory / "spiece.vocab").unlink()
    state = T5ForConditionalGeneration.from_pretrained(writer).state_dict()
    torch.save({name: tensor.clone() for name, tensor in state.items()}, directory / "pytorch_model.bin")
    shutil.copy(writer / "config.json", directory)
    assert {path.name for path in directory.iterdir()} == {"spiece.model", "pytorch_model.bin", "config.json"}
    return directory


def test_doc2query_reads_a_checkpoint_as_the_default_one_was_published(published, model, few, tmp_path):
    assert synthesize(few, tmp_path / "out", model=model, config=asking(published)).generated == 60
    queries = [query for record in answers_in(tmp_path / "out").values() for query in record["queries"]]
    assert sum(bool(re.search(r"\d", query)) for query in queries) > 30  # pieces of its vocabulary, not ids
    assert not any("<pad>" in query or "▁" in query for query in queries)


@pytest.mark.parametrize(
    ("module", "package"), [("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")]
)
def test_a_missing_tokeniser_package_is_named_with_its_extra(
    published, model, few, tmp_path, monkeypatch, module, package
):
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    monkeypatch.setitem(sys.modules, module, None)  # what Python takes for not installed
    is_sentencepiece_available.cache_clear()
    is_protobuf_available.cache_clear()
    try:
        with pytest.raises(
            MissingExtraError, match=rf"'{package}'.*pip install 'routerretriever\[doc2query\]'"
        ):
            synthesize(few, tmp_path / "out", model=model, config=asking(published))
    finally:
        is_sentencepiece_available.cache_clear()
        is_protobuf_available.cache_clear()
