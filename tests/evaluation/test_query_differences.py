"""Queries that are helped and hurt most, and queries by length."""

import json

import numpy as np
import pytest

from routerretriever import Collection, Document
from routerretriever.data.splits import Split
from routerretriever.errors import CollectionError
from routerretriever.evaluation.evaluate import CollectionResult, Evaluation, SystemScores
from routerretriever.evaluation.query_differences import most_changed
from routerretriever.evaluation.query_groups import by_field, by_length

QUERIES = {"a": "one", "b": "one two three four", "c": " ".join(["word"] * 20), "d": "same"}
QRELS = {query: {f"{query}-right": 1} for query in QUERIES}


def system(values, first):
    run = {query: {f"{query}-{first}": 1.0, f"{query}-other": 0.5} for query in QUERIES}
    return SystemScores({"nDCG@10": np.array(values)}, run)


@pytest.fixture
def evaluation():
    systems = {
        "base": system([0.1, 0.1, 0.1, 0.1], "wrong"),
        "hybrid": system([0.2, 0.5, 0.9, 0.3], "wrong"),
        "routed-hybrid": system([1.0, 0.6, 0.0, 0.3], "right"),
    }
    split = Split("test", QUERIES, QRELS)
    return Evaluation((CollectionResult(name="law", split=split, systems=systems, chosen={}),))


def test_the_largest_differences_come_first_and_equal_ones_not_at_all(evaluation):
    helped, hurt = most_changed(evaluation)
    assert [found.query for found in helped] == [QUERIES["a"], QUERIES["b"]]
    assert [found.query for found in hurt] == [QUERIES["c"]]
    assert len(most_changed(evaluation, 1)[0]) == 1
    first = helped[0]
    assert [(result.id, result.relevant) for result in first.results_after] == [
        ("a-right", True),
        ("a-other", False),
    ]
    assert first.results_before[0].id == "a-wrong" and first.difference == pytest.approx(0.8)
    json.dumps(first.to_dict())


def test_queries_are_grouped_by_their_words(evaluation):
    rows = {row["group"]: row for row in by_length(evaluation).rows}
    assert list(rows) == ["1 to 3 words", "4 to 7 words", "16 words and more"]
    assert rows["1 to 3 words"]["queries"] == 2
    assert rows["1 to 3 words"]["routed-hybrid"] == pytest.approx(0.65)


def test_queries_are_grouped_by_a_field_of_their_document(evaluation):
    documents = [
        Document("a-right", "text", "", {"year": 2001}),
        Document("b-right", "text", "", {"year": 1999}),
        Document("c-right", "text", "", {"year": 1999}),
        Document("d-right", "text"),
    ]
    law = Collection(name="law", documents=tuple(documents), splits={})
    groups = by_field(evaluation, [law], "year")
    assert [(row["group"], row["queries"]) for row in groups.rows] == [("1999", 2), ("2001", 1), ("none", 1)]
    assert json.loads(json.dumps(groups.to_dict()))["by"] == "year"
    with pytest.raises(CollectionError, match="No document has a field 'colour'.*year"):
        by_field(evaluation, [law], "colour")
