"""Collections from ir_datasets, whose documents are named tuples."""

from typing import NamedTuple

import ir_datasets

from routerretriever import Collection


class Plain(NamedTuple):
    doc_id: str
    text: str
    title: str
    year: int
    tags: tuple

    def default_text(self):
        return self.text


class Parts(NamedTuple):
    doc_id: str
    headline: str
    body: str
    year: int

    def default_text(self):
        return f"{self.headline} {self.body}"


class Query(NamedTuple):
    query_id: str
    text: str

    def default_text(self):
        return self.text


class Judged(NamedTuple):
    query_id: str
    doc_id: str
    relevance: int


class Source:
    def __init__(self, documents):
        self.docs_iter = lambda: iter(documents)
        self.queries_iter = lambda: iter([Query("q1", "a question")])
        self.qrels_iter = lambda: iter([Judged("q1", "1", 1)])

    def has_qrels(self):
        return True


def loaded(monkeypatch, *documents):
    monkeypatch.setattr(ir_datasets, "load", lambda name: Source(documents))
    return Collection.load("ir_datasets:tiny/test")


def test_other_fields_become_metadata_and_lists_are_named(monkeypatch):
    collection = loaded(monkeypatch, Plain("1", "a text", "a title", 1999, ("x",)))
    (document,) = collection.documents
    assert (document.id, document.text, document.title) == ("1", "a text", "a title")
    assert document.metadata == {"year": 1999}
    assert list(collection.left_out) == ["tags"]


def test_what_is_in_the_default_text_is_not_kept_twice(monkeypatch):
    (document,) = loaded(monkeypatch, Parts("1", "Rain", "falls", 1999)).documents
    assert document.text == "Rain falls"
    assert document.metadata == {"year": 1999}
