import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import tried

from routerretriever import Index, RouterRetriever
from routerretriever.data.document import Document
from routerretriever.errors import FilterError, VectorIndexError
from routerretriever.index.filters import to_sql

SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "id": pa.string(),
        "vector": pa.list_(pa.float32(), 4),
        "year": pa.int64(),
        "score": pa.float64(),
        "draft": pa.bool_(),
    }
)


@pytest.mark.parametrize(
    ("condition", "sql"),
    [
        ({"id": "a"}, "`id` = 'a'"),
        ({"id": "it's"}, "`id` = 'it''s'"),
        ({"year": {"gte": 2000, "lt": 2010}}, "`year` >= 2000 AND `year` < 2010"),
        ({"draft": False, "score": 1}, "`draft` = FALSE AND `score` = 1.0"),
        ({"year": {"gte": 1990.0, "in": [-0.0, 2e3]}}, "`year` >= 1990 AND `year` IN (0, 2000)"),
        ({"year": None}, "`year` IS NULL"),
        ({"year": {"eq": None}}, "`year` IS NULL"),
        ({"year": {"ne": None}}, "`year` IS NOT NULL"),
        ({"year": {"exists": False}, "id": {"exists": True}}, "`year` IS NULL AND `id` IS NOT NULL"),
        (
            {"or": [{"id": {"in": ["a", "b"]}}, {"not": {"year": 1}}]},
            "((`id` IN ('a', 'b')) OR ((NOT (`year` = 1))))",
        ),
    ],
)
def test_conditions_become_sql(condition, sql):
    assert to_sql(condition, SCHEMA) == sql


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({}, "mapping"),
        ([], "mapping"),
        ({"key": "a"}, "no field 'key'"),
        ({"vector": 1.0}, "no field 'vector'"),
        ({"id": {}}, "empty"),
        ({"year": {"lt": None}}, "type int64, which None is not"),
        ({"year": {"in": [1, None]}}, "type int64, which None is not"),
        ({"year": {"exists": None}}, "'exists' needs true or false"),
        ({"hash": "a"}, "no field 'hash'"),
        ({"id": {"like": "a%"}}, "no operator 'like'"),
        ({"id": 5}, "type string"),
        ({"year": True}, "type int64"),
        ({"year": 1.5}, "type int64"),
        ({"year": 2**70}, "type int64"),
        ({"year": 1e30}, "type int64"),
        ({"year": float("inf")}, "type int64"),
        ({"score": float("nan")}, "type double"),
        ({"draft": 1}, "type bool"),
        ({"id": "a\0b"}, "type string"),
        ({"id": {"in": "abc"}}, "'in' needs a list"),
        ({"id": {"in": ["a"] * 1001}}, "1000"),
        ({"and": {"id": "a"}}, "'and' needs a list"),
        ({"not": None}, "mapping"),
    ],
)
def test_what_cannot_be_understood_is_named(condition, message):
    with pytest.raises(FilterError, match=message):
        to_sql(condition, SCHEMA)


def test_nesting_has_a_bound():
    condition = {"id": "a"}
    for _ in range(100):
        condition = {"not": condition}
    with pytest.raises(FilterError, match="nested"):
        to_sql(condition, SCHEMA)


HOSTILE = ["a' OR '1'='1", "\\", "\\'", "'; DROP TABLE documents; --", "%", "`id`", "\n", "é 東京", '"', "''"]


@pytest.fixture(scope="module")
def index(checkpoint, tmp_path_factory):
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    index = Index.create(tmp_path_factory.mktemp("hostile") / "index", model)
    index.upsert([Document(text, "word1", "", {"tag": text}) for text in [*HOSTILE, "plain"]])
    return index


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_value_is_only_a_value(index, text):
    for condition in ({"id": text}, {"tag": {"in": [text]}}):
        assert [hit.id for hit in index.search("word1", k=50, where=condition)] == [text]


@tried(100)
@given(
    value=st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
)
def test_any_text_is_a_value(index, value):
    found = [hit.id for hit in index.search("word1", k=50, where={"id": {"ne": value}})]
    assert set(found) == {*HOSTILE, "plain"} - {value}


def test_documents_without_a_field_are_found_by_that_alone(checkpoint, tmp_path):
    index = Index.create(tmp_path / "index", RouterRetriever.create(str(checkpoint), device="cpu"))
    index.upsert(
        [Document("old", "word1", "", {"year": 1990}), Document("none", "word1"), Document("x", "word1", "T")]
    )

    def found(condition):
        return {hit.id for hit in index.search("word1", where=condition)}

    assert found({"year": None}) == found({"year": {"exists": False}}) == {"none", "x"}
    assert found({"not": {"year": None}}) == found({"year": {"exists": True}}) == {"old"}
    assert found({"year": {"ne": 2000}}) == found({"not": {"year": 2000}}) == {"old"}
    assert found({"or": [{"year": None}, {"year": {"ne": 1990}}]}) == {"none", "x"}
    assert found({"title": None}) == {"old", "none"}


@pytest.mark.parametrize("where", ["id = 'a'; drop", "id = 'a';", "id = 'it''s'; --"])
def test_nothing_stands_behind_a_semicolon(index, where):
    with pytest.raises(FilterError, match="has no ';'"):
        index.search("word1", where=where)
    assert index.search("word1", where="id = 'a;b' OR id = 'it''s; b'") == []


def test_a_condition_that_lance_cannot_read_is_told_without_its_sources(index):
    with pytest.raises(
        VectorIndexError, match=r"The search failed: .*[^.]\. A condition looks like"
    ) as caught:
        index.search("word1", where="collection = 'bank")
    assert ".rs:" not in str(caught.value)


def test_documents_are_counted_under_a_condition(index):
    everything = index.count()
    assert everything == len(index)
    assert index.count({"id": {"in": ["nobody"]}}) == 0
    assert index.count({"collection": {"ne": "nobody"}}) == everything
    assert {"id", "collection", "title", "text"} <= index.fields().keys()
    assert not {"key", "hash", "vector"} & index.fields().keys()
