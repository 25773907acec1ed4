"""Kinds of vector index, and that a filter never costs results."""

import lance
import numpy as np
import pyarrow as pa
import pytest

from routerretriever import Index
from routerretriever.errors import VectorIndexError
from routerretriever.index import kinds as index_kinds
from routerretriever.index import lance_view
from routerretriever.index.kinds import choose
from routerretriever.index.parameters import SearchParameters
from routerretriever.index.schema import document_key

ROWS, DIMENSION, CLUSTERS = 25_000, 32, 100
FILTERS = {
    "50%": ("number % 2 = 0", lambda n: n % 2 == 0),
    "1%": ("number % 100 = 7", lambda n: n % 100 == 7),
    "0.01%": ("number IN (11, 9000, 24000)", lambda n: np.isin(n, [11, 9000, 24000])),
    "one cluster": ("cluster = 3", lambda n: n % CLUSTERS == 3),
}


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, DIMENSION))
    found = centres[np.arange(ROWS) % CLUSTERS] + 0.4 * rng.normal(size=(ROWS, DIMENSION))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def index(model, vectors, tmp_path_factory):
    """Written in one go: 25,000 documents of a cluster each."""
    index = Index.create(tmp_path_factory.mktemp("kinds") / "index", model)
    index._store.table.newest().add_columns(pa.schema([("number", pa.int64()), ("cluster", pa.int64())]))
    numbers = list(range(ROWS))
    columns = {"key": [document_key("", f"d{n}") for n in numbers], "id": [f"d{n}" for n in numbers]}
    columns |= {name: [""] * ROWS for name in ("collection", "title", "text")}
    columns |= {"vector": list(vectors), "number": numbers, "cluster": [n % CLUSTERS for n in numbers]}
    dataset = index._store.table.newest()
    schema = dataset.schema
    values = [columns.get(name, [None] * ROWS) for name in schema.names]
    lance.write_dataset(
        pa.table(dict(zip(schema.names, values, strict=True)), schema=schema), dataset, mode="append"
    )
    return index


def test_auto_chooses_by_size():
    assert choose(20_000)[0] == "flat"
    kind, reason = choose(20_001)
    assert kind == "ivf_rq"
    assert "20000" in reason


@pytest.mark.parametrize("kind", ["flat", "ivf_flat", "ivf_rq"])
def test_a_filter_never_costs_results(index, vectors, kind):
    """However few partitions are searched, and however far from the query the matches are."""
    built = index.build_index(kind)
    assert (built.kind, built.rows, built.reason) == (kind, ROWS, "asked for")
    assert index.kind == built or kind == "flat"
    assert index.is_approximate == (kind != "flat")
    queries = vectors[:: ROWS // 6] + 0.05
    numbers = np.arange(ROWS)
    for condition, holds in FILTERS.values():
        kept = numbers[holds(numbers)]
        for parameters in (None, SearchParameters(nprobes=1)):
            for hits in index.search_vectors(queries, 10, where=condition, parameters=parameters):
                assert len({hit.id for hit in hits}) == min(10, len(kept))
                assert {hit.metadata["number"] for hit in hits} <= set(kept.tolist())


@pytest.mark.parametrize("kind", ["ivf_pq", "hnsw"])
def test_slow_kinds_keep_to_filters_too(index, model, vectors, tmp_path, kind):
    """On few rows, because Lance takes half a minute to build a graph of 25,000."""
    small = Index.create(tmp_path / "small", model)
    small._store.table.newest().add_columns(pa.schema([("number", pa.int64()), ("cluster", pa.int64())]))
    rows = index._store.table.newest().to_table(filter="number < 2000")
    lance.write_dataset(rows, small._store.table.newest(), mode="append")
    assert small.build_index(kind).kind == small.kind.kind == kind
    for condition, kept in (("number % 2 = 0", 1000), ("number % 100 = 7", 20), ("number IN (11, 900)", 2)):
        for hits in small.search_vectors(
            vectors[:5], 10, where=condition, parameters=SearchParameters(1, 2, 12)
        ):
            assert len(hits) == min(10, kept)


def test_what_a_filter_leaves_is_ranked_wherever_it_lies(index, vectors):
    index.build_index("ivf_flat")  # which loses nothing within a partition
    queries = vectors[:: ROWS // 20] + 0.05
    for condition, _ in FILTERS.values():
        exact = index.search_vectors(queries, 10, where=condition, exact=True)
        found = index.search_vectors(queries, 10, where=condition, parameters=SearchParameters(nprobes=1))
        assert [[hit.id for hit in hits] for hits in found] == [[hit.id for hit in hits] for hits in exact]


def test_what_the_index_misses_is_found_by_a_scan(index, vectors, monkeypatch):
    """Were Lance to stop at the partitions nearest to the query, as it does with ``nprobes``."""
    index.build_index("ivf_flat")
    monkeypatch.setattr(lance_view, "approximation", lambda *given, filtered: {"nprobes": 1})
    (hits,) = index.search_vectors(vectors[:1], 3, where="number IN (11, 9000, 24000)")
    assert len(hits) == 3


def test_parameters_trade_time_for_recall(index, vectors):
    index.build_index("ivf_rq")
    queries = vectors[:: ROWS // 50] + 0.1
    exact = [{hit.id for hit in hits} for hits in index.search_vectors(queries, 10, exact=True)]

    def recall(parameters):
        found = index.search_vectors(queries, 10, parameters=parameters)
        return np.mean([len({hit.id for hit in a} & b) / 10 for a, b in zip(found, exact, strict=True)])

    assert recall(SearchParameters(nprobes=1, refine=0)) < recall(None) < recall(SearchParameters(refine=50))
    assert recall(SearchParameters(nprobes=50, refine=50)) > 0.97  # of 32 bits a vector
    with pytest.raises(VectorIndexError, match="at least 1"):
        SearchParameters(nprobes=0)


def test_an_unknown_kind_is_refused(index):
    with pytest.raises(VectorIndexError, match="no kind of index 'best'.*ivf_rq"):
        index.build_index("best")


def test_a_choice_is_kept_and_auto_follows_the_size(index, monkeypatch):
    index.build_index("flat")
    index.upsert([])
    assert (index.kind.kind, index.kind.reason) == ("flat", "asked for")  # though there are over 20,000
    assert index.build_index("auto").kind == "ivf_rq"
    assert "fastest" in Index.open(index.uri).kind.reason
    monkeypatch.setattr(index_kinds, "EXACT_LIMIT", 50_000)
    assert index.build_index().kind == "flat"
    monkeypatch.setattr(index_kinds, "EXACT_LIMIT", 20_000)
    index.upsert([])  # what is written next builds what the size asks for
    assert index.kind.kind == "ivf_rq"


def test_an_index_that_nobody_noted_keeps_its_kind(index):
    """As another program may build it, or one that was killed before it could note why."""
    index.build_index("auto")
    index._store.table.newest().create_index("vector", "IVF_FLAT", metric="cosine", replace=True)
    assert (index.kind.kind, index.kind.reason) == ("ivf_flat", "reason not recorded")
    index_kinds.rebuild(index._store.table)
    assert index.kind.kind == "ivf_flat"
