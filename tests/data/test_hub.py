"""Hub collections go through the checks that files go through."""

import pytest

from routerretriever.data.collection import Collection
from routerretriever.data.hub import read_hub
from routerretriever.data.raw_collection import check_collection
from routerretriever.errors import CollectionError, RouterRetrieverError


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Lay out data sets as they are on the hub; the real ``datasets`` library reads them."""
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write(name, configurations):
        card = "---\nconfigs:\n"
        for configuration, splits in configurations.items():
            card += f"- config_name: {configuration}\n  data_files:\n"
            for split, columns in splits.items():
                path = tmp_path / name / configuration / f"{split}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                datasets.Dataset.from_dict(columns).to_parquet(path)
                card += f"  - split: {split}\n    path: {configuration}/{split}.parquet\n"
        (tmp_path / name / "README.md").write_text(card + "---\n")

    return write


CORPUS = {"_id": ["d1", "d2"], "title": ["T", ""], "text": ["body", "other"]}
QUERIES = {"_id": ["q1"], "title": [""], "text": ["ask"]}
QRELS = {"query-id": ["q1"], "corpus-id": ["d1"], "score": [1]}


def loaded(name="org/mini", strict=True):
    # A folder of that relative name would be taken for a BEIR folder, so the reader is called itself.
    raw = read_hub(name, strict)
    return raw, check_collection(raw, name, strict)


def beir(publish, corpus=CORPUS, queries=QUERIES, qrels=QRELS):
    publish("org/mini", {"corpus": {"corpus": corpus}, "queries": {"queries": queries}})
    publish("org/mini-qrels", {"default": {"validation": qrels}})


def test_beirs_layout(publish):
    beir(publish)
    raw, (documents, splits) = loaded()
    assert raw.documents["d1"].content == "T body"
    assert [document.id for document in documents] == ["d1", "d2"]
    assert splits["dev"].qrels == {"q1": {"d1": 1}}


@pytest.mark.parametrize("configuration", ["default", "qrels"])
def test_mtebs_layout_in_one_repository(publish, configuration):
    qrels = {"query_id": ["q1"], "doc_id": ["d2"], "relevance": [2]}
    parts = {"corpus": {"corpus": CORPUS}, "queries": {"queries": QUERIES}, configuration: {"test": qrels}}
    publish("org/mini", parts)
    _, (_, splits) = loaded()
    assert splits["test"].qrels == {"q1": {"d2": 2}}


def test_a_column_id_is_read_and_scalar_fields_are_kept(publish):
    beir(publish, corpus={"id": [1, 2], "text": ["body", "other"], "year": [1999, 2000]})
    raw = read_hub("org/mini", strict=True)
    assert raw.documents["1"].metadata == {"year": 1999}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": CORPUS | {"text": ["body", None]}}, r"org/mini, corpus, row 2: 'text' holds None"),
        (
            {"corpus": CORPUS | {"_id": ["d1", "d1"]}},
            r"org/mini, corpus, row 2: the document id 'd1' is used twice",
        ),
        ({"queries": QUERIES | {"text": [None]}}, r"org/mini, queries, row 1: 'text' holds None"),
        (
            {"queries": {"_id": ["q1", "q1"], "text": ["a", "b"]}},
            r"org/mini, queries, row 2: the query id 'q1' is used twice",
        ),
        (
            {"qrels": {"query": ["q1"], "corpus-id": ["d1"], "score": [1]}},
            r"org/mini-qrels, validation: expected the columns query-id, corpus-id, score, found query,",
        ),
        (
            {"qrels": QRELS | {"score": [0.5]}},
            r"org/mini-qrels, validation, row 1: the grade 0.5 is not a whole",
        ),
        (
            {"qrels": QRELS | {"corpus-id": ["d9"]}},
            r"org/mini-qrels, validation, row 1: the judgement names document",
        ),
    ],
)
def test_bad_rows_are_named(publish, changes, message):
    beir(publish, **changes)
    with pytest.raises(CollectionError, match=message):
        loaded()


def test_pairs_and_triplets(publish):
    rows = {"anchor": ["a", "a", "b"], "positive": ["x", "y", "x"], "negative": ["z", "z", "y"]}
    publish(
        "org/mini",
        {"default": {"train": rows, "test": {"anchor": ["c"], "positive": ["x"], "negative": ["y"]}}},
    )
    raw, (documents, splits) = loaded()
    assert sorted(document.text for document in documents) == ["x", "y", "z"]
    assert {name: len(split) for name, split in splits.items()} == {"train": 2, "test": 1}
    assert sorted(splits["train"].qrels["q0"].values()) == [0, 1, 1]
    assert raw.queries["q2"] == "c"


@pytest.mark.parametrize(
    ("configurations", "message"),
    [
        (
            {"default": {"train": {"sentence": ["a"], "other": ["b"]}}},
            r"has the columns sentence, other\. A collection",
        ),
        (
            {name: {"train": {"query": ["a"], "answer": ["b"]}} for name in ("pair", "triplet")},
            r"has the configurations pair, triplet\. A collection",
        ),
    ],
)
def test_another_layout_is_told_which_are_read(publish, configurations, message):
    publish("org/mini", configurations)
    with pytest.raises(CollectionError, match=message):
        loaded()


def test_unreachable_hub_name_is_a_named_error():
    with pytest.raises(RouterRetrieverError, match="could not be read from the hub"):
        Collection.load("nobody/nothing")
