"""Long documents are cut into passages that a base reads whole."""

from itertools import pairwise

import pytest

from routerretriever import RouterRetriever
from routerretriever.data.document import Document, Section
from routerretriever.passages.cutter import Cutter


def words(text):
    return len(text.split())


LONG = "\n\n".join(f"Part {n} says. " + "some words that follow here. " * 4 for n in range(12)).strip()


def test_a_document_that_is_read_whole_is_one_passage_with_its_own_content():
    document = Document("d", "one two three", "title")
    assert [p.content for p in Cutter(words, 4).cut(document)] == ["title one two three"]
    assert Cutter(words, 4).cut(document)[0].place is None
    assert Cutter(words, None).cut(Document("d", LONG))[0].text == LONG


def test_every_passage_fits_and_is_where_it_says():
    passages = Cutter(words, 60).cut(Document("d", LONG, "a title"))
    assert len(passages) > 4
    for number, passage in enumerate(passages):
        assert words(passage.content) <= 60
        assert passage.content == f"a title {passage.text}"
        assert passage.place.number == number
        assert LONG[passage.place.start : passage.place.stop] == passage.text
    joined = " ".join(passage.text for passage in passages)
    assert {f"Part {n} says." in joined for n in range(12)} == {True}
    assert all(passage.text.startswith("Part") for passage in passages)


def test_passages_without_breaks_overlap_and_leave_nothing_out():
    text = " ".join(f"w{n}" for n in range(500))
    passages = Cutter(words, 100).cut(Document("d", text))
    for before, after in pairwise(passages):
        assert before.place.start < after.place.start < before.place.stop < after.place.stop
    assert passages[-1].place.stop == len(text)


def test_a_single_word_that_is_too_long_is_cut():
    passages = Cutter(len, 50).cut(Document("d", "x" * 333))
    assert max(len(passage.content) for passage in passages) <= 50
    assert passages[-1].place.stop == 333


def sectioned():
    parts = [
        ("Guide", 1, "Read this."),
        ("Install", 2, "pip install it. " * 20),
        ("Linux", 3, "Use the shell. " * 20),
    ]
    parts += [("Use", 2, "Call the function. " * 20)]
    text, sections = "", []
    for page, (heading, level, body) in enumerate(parts, start=1):
        sections.append(Section(start=len(text), heading=heading, level=level, page=page))
        text += f"{heading}\n\n{body}\n\n"
    return Document("d", text, "Manual", {}, tuple(sections))


def test_headings_above_a_passage_and_its_page_are_kept():
    passages = Cutter(words, 40).cut(sectioned())
    headings = {passage.place.heading: passage.place.page for passage in reversed(passages)}
    assert headings == {"Guide › Install": 1, "Guide › Install › Linux": 3, "Guide › Use": 4}
    assert passages[0].text.startswith("Guide\n\nRead this.\n\nInstall")  # too small by itself
    assert all(
        p.content.startswith(f"Manual {p.place.heading} ") and words(p.content) <= 40 for p in passages
    )


def test_a_title_longer_than_the_base_reads_leaves_room_for_the_text():
    document = Document("d", LONG, "long title " * 100)
    passages = Cutter(words, 60).cut(document)
    assert all(words(passage.content) <= 60 for passage in passages)
    assert len(passages) < 30


@pytest.mark.parametrize("text", ["", " " * 5000, "\n" * 3000, "\0" * 400, "é" * 300, "日本語" * 400])
def test_odd_texts_are_cut_too(text):
    passages = Cutter(len, 100).cut(Document("d", text))
    assert passages[0].text == text if len(passages) == 1 else all(len(p.text) <= 100 for p in passages)


def test_a_model_counts_with_its_own_tokeniser_prompt_and_special_tokens(checkpoint):
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    text = " ".join(f"word{n}" for n in range(62))  # and two special tokens
    assert len(model.cut(Document("d", text))) == 1
    assert len(model.cut(Document("d", text + " word1"))) == 2
    for passage in model.cut(Document("d", " ".join([text] * 9), "word5 word6")):
        assert len(model.tokenizer(passage.content)["input_ids"]) <= 64
    model.prompts["document"] = "word1 word2 "
    assert len(model.cut(Document("d", text))) == 2
    model.max_seq_length = 80
    assert len(model.cut(Document("d", text))) == 1
