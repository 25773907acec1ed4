"""Headings, sentences, phrases and keywords of a passage."""

import random

from routerretriever.passages.short_texts import short_texts
from routerretriever.passages.word_statistics import WordStatistics, words_of


def drawn(title, text, corpus, most=80):
    return short_texts(title, text, most, WordStatistics.of([f"{title} {text}", *corpus]), random.Random(0))


def test_phrases_are_as_they_are_written():
    made = drawn("", "The nest_box_log of the high-speed line is read.", ["the of is"] * 9)
    assert "nest_box_log" in made
    assert "high-speed line" in made


def test_a_passage_without_words_has_nothing_to_offer():
    assert drawn("", "…", [""]) == []
    assert drawn("—", "", ["some words"]) == []


def test_texts_are_different_and_as_many_as_are_wanted():
    text = "Alpha beta gamma delta. Epsilon zeta eta theta!"
    made = drawn("Greek letters", text, ["other words here"], 12)
    assert len(set(made)) == len(made) == 12
    assert {"Greek letters", "Alpha beta gamma delta."} <= set(drawn("Greek letters", text, ["other"]))


def test_two_signs_are_a_word_where_a_script_has_no_spaces():
    assert words_of("東京都is大きい") == ["東京", "都", "is", "大き", "い"]
    made = drawn(
        "東京", "東京は日本の首都である。大阪は大きな都市である。", [f"別の文{n}号" for n in range(9)]
    )
    assert {"東京", "東京は日本の首都である。", "大阪は大きな都市である。"} <= set(made)
    assert any(" " in text for text in made)  # keywords


def test_common_words_are_those_of_a_fifth_of_the_texts():
    texts = [f"always often{number % 4} rare{number % 10} word{number}" for number in range(40)]
    common = WordStatistics.of(texts).common
    assert {"always", "often0"} <= common
    assert "rare0" not in common
    assert "the" in WordStatistics.of([]).common
