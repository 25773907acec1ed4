"""The texts that queries are made of."""

import random

import pytest
from documents import texts, whole_passages, write_documents

from routerretriever.data.document import Document
from routerretriever.errors import CollectionError, SynthesisError
from routerretriever.synthesis import synthesize
from routerretriever.synthesis.passages import MIN_PASSAGES, load_documents


def test_passages_group_equal_texts_and_set_the_rest_aside():
    contents = [f"text number {n}" for n in range(12)]
    documents = [Document(f"a{n}", text) for n, text in enumerate(contents)]
    documents += [Document("b0", contents[0]), Document("empty", " ... ")]
    documents += [Document(f"c{n}", "intentionally left blank") for n in range(5)]
    found = whole_passages(documents)
    assert (len(found.items), found.empty, found.copies, found.boilerplate, found.shortened) == (
        12,
        1,
        1,
        5,
        0,
    )
    assert next(p for p in found.items if p.text == contents[0]).documents == ("a0", "b0")
    assert whole_passages(reversed(documents)) == found


def test_sample_is_independent_of_order_and_decided_by_the_seed():
    documents = [Document(f"d{n}", text) for n, text in enumerate(texts())]
    one = whole_passages(documents).sample(20, 0)
    random.Random(1).shuffle(documents)
    assert whole_passages(documents).sample(20, 0) == one
    assert whole_passages(documents).sample(20, 1) != one


def test_sources(bare, make_collection, tmp_path):
    assert load_documents(bare)[0] == "bare"
    assert load_documents(bare)[1][0].metadata == {"year": 2020}
    folder = make_collection("whole")
    (folder / "queries.jsonl").unlink()
    assert load_documents(folder)[0] == "whole"
    assert len(load_documents(folder)[1]) == 60
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("query\tpositive\nask\tanswer\n")
    assert load_documents(pairs)[1][0].text == "answer"
    with pytest.raises(CollectionError, match="no collection at"):
        load_documents(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (["alone in the world"], "There are 1 different texts"),
        (["the same"] * 50, r"There are 0 different texts \(0 empty documents, 50 with a text"),
        (["", "  ", "..."] * 10, r"There are 0 different texts \(30 empty"),
        (texts(MIN_PASSAGES - 1), "Add documents"),
    ],
)
def test_corpora_that_teach_nothing_are_refused(model, tmp_path, contents, message):
    source = write_documents(tmp_path / "c.jsonl", contents)
    with pytest.raises(SynthesisError, match=message):
        synthesize(source, tmp_path / "out", model=model)
    assert not (tmp_path / "out").exists()
