"""BM25 over one collection."""

from routerretriever.words.word_search import word_search


def test_rows_come_best_first_and_only_those_with_a_word():
    with word_search(["", "", ""], ["running dogs in the wide park", "a dog", "cats sleep"]) as search:
        rows, scores = search.search("dog")
        assert rows.tolist() == [1, 0] and scores[0] > scores[1] > 0
        assert [rows.tolist() for rows, _ in search.search_many(["cat", "zebra", ""])] == [[2], [], []]


def test_depth_bounds_what_is_found():
    with word_search([""] * 20, ["dog"] * 20) as search:
        assert len(search.search("dog", depth=7)[0]) == 7
