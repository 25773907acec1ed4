"""Words of a query are shown where they are."""

from routerretriever.words.highlight import matched_words, window


def shown(query, text):
    return [text[start:stop] for start, stop in matched_words(query, text)]


def test_forms_of_a_word_match_and_common_words_do_not():
    found = shown("how to run the tests", "The test runs; testing ran to a run.")
    assert found == ["test", "runs", "testing", "run"]
    assert shown("Übung C++", "eine Übung in C") == ["Übung", "C"]
    assert shown("", "nothing") == []


def test_the_window_is_where_most_words_are():
    text = "alpha " * 50 + "needle and needle " + "omega " * 50
    start, stop = window(text, matched_words("needle", text), 60)
    assert "needle and needle" in text[start:stop]
    assert start > 0
    assert text[start - 1] == " "
    assert window("short needle", matched_words("needle", "short needle"), 60) == (0, 60)
