"""Crops and titles."""

import re

import numpy as np
import pytest
from documents import texts, whole_passages

from routerretriever.data.document import Document
from routerretriever.passages.word_statistics import WordStatistics, words_of
from routerretriever.synthesis.crops import LONGEST, crops
from routerretriever.synthesis.passages import MIN_PASSAGES
from routerretriever.synthesis.titles import titles

ESSAY = """# Kestrel operations

Kestrels hover above the motorway verge. The falconer records each hover.

## Nest boxes

Wooden nest boxes attract breeding pairs, and readLogFile counts them in nest_box_log.
"""


def passages_of(*contents):
    filler = [f"filler{n} text{n} of{n}" for n in range(MIN_PASSAGES)]
    found = whole_passages([Document(f"d{n}", text) for n, text in enumerate([*contents, *filler])])
    by_content = {passage.content: passage for passage in found.items}
    return [by_content[" ".join(text.split())] for text in contents], found.items


def test_crops_are_short_spans_of_their_passage_with_words_left_out():
    chosen, _ = passages_of(" ".join(f"w{n}" for n in range(200)))
    made = list(crops(chosen, 200, 0))
    numbers = [[int(word[1:]) for word in item.text.split()] for item in made]
    assert all(row == sorted(row) and row[-1] - row[0] < LONGEST for row in numbers)
    assert any(row[-1] - row[0] >= len(row) for row in numbers)  # words are missing
    assert len({len(row) for row in numbers}) > 8
    assert np.median([len(row) for row in numbers]) < LONGEST / 2


def test_titles_are_headings_sentences_phrases_and_keywords():
    chosen, everything = passages_of(ESSAY)
    made = {item.text for item in titles(chosen, 60, 0, everything)}
    assert {"Kestrel operations", "Nest boxes"} <= made
    assert "Kestrels hover above the motorway verge." in made
    assert any("breeding pairs" in text for text in made)
    keywords = [text for text in made if text == text.lower() and "." not in text]
    assert keywords and all(word in ESSAY.lower() for text in keywords for word in text.split())
    assert not any({"the", "them"} & set(text.split()) for text in keywords)


def test_the_title_of_a_document_is_a_heading():
    documents = [Document(f"d{n}", f"text{n} body{n} here{n}", title=f"Name {n}") for n in range(12)]
    items = whole_passages(documents).items
    made = [item.text for item in titles(items, 3, 0)]
    assert sum(bool(re.fullmatch(r"Name \d+", text)) for text in made) > 4


def test_identifiers_are_words():
    assert words_of("readLogFile(nest_box_log)") == ["read", "Log", "File", "nest", "box", "log"]


def test_common_words_are_no_keywords_in_any_language():
    contents = [f"der die wort{n} ding{n}" for n in range(40)]
    common = WordStatistics.of(contents).common
    assert {"der", "die"} <= common
    assert "wort1" not in common


@pytest.mark.parametrize("method", ["crops", "titles"])
def test_methods_are_decided_by_seed_and_content_alone(method):
    documents = [Document(f"d{n}", text) for n, text in enumerate(texts())]

    def made(order, seed=0):
        items = whole_passages(order).items
        return {
            (g.passage.key, g.text)
            for g in (crops(items, 2, seed) if method == "crops" else titles(items, 2, seed))
        }

    assert made(documents) == made(documents[::-1])
    assert made(documents, 1) != made(documents)
