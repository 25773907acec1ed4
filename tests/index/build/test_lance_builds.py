"""lancedb and pylance carry a Lance build each: what one wrote, the other must read."""

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lance.fragment import write_fragments

SCHEMA = pa.schema(
    [("key", pa.string()), ("text", pa.string()), ("vector", pa.list_(pa.float32(), 8))],
    metadata={"routerretriever": '{"format_version": 1}'},
)
VECTORS = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)


def rows(numbers, text="old"):
    numbers = list(numbers)
    columns = {
        "key": [f"k{n}" for n in numbers],
        "text": [text] * len(numbers),
        "vector": list(VECTORS[numbers]),
    }
    return pa.table(columns, schema=SCHEMA)


@pytest.fixture
def table(tmp_path):
    """Made by lancedb, with forty rows in two versions."""
    table = lancedb.connect(tmp_path).create_table("documents", rows(range(20)))
    table.add(rows(range(20, 40)))
    return table


def dataset(table):
    return lance.dataset(str(table.uri))


def replace_rows(table, new, keys):
    """Delete rows by key and append others in one commit, the way cluster writers do."""
    source = dataset(table)
    fragments = write_fragments(new, source, mode="append")
    quoted = ", ".join(f"'{key}'" for key in keys)
    updated, removed = [], []
    for fragment in source.get_fragments():
        left = fragment.delete(f"key IN ({quoted})")
        if left is None:
            removed.append(fragment.fragment_id)
        elif left.deletion_file != fragment.metadata.deletion_file:
            updated.append(left)
    operation = lance.LanceOperation.Update(removed, updated, fragments)
    return lance.LanceDataset.commit(source, operation, read_version=source.version)


def test_pylance_reads_what_lancedb_wrote(table):
    table.delete("key = 'k3'")
    table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(
        rows([4, 5], "new")
    )
    found = dataset(table).to_table()
    assert sorted(found["key"].to_pylist()) == sorted(f"k{n}" for n in range(40) if n != 3)
    texts = dict(zip(found["key"].to_pylist(), found["text"].to_pylist(), strict=True))
    assert {key for key, text in texts.items() if text == "new"} == {"k4", "k5"}
    assert dataset(table).schema.metadata == SCHEMA.metadata


def test_lancedb_reads_what_pylance_committed(table):
    before = dataset(table).version
    committed = replace_rows(table, rows([1, 2], "new"), ["k1", "k2"])
    assert committed.version == before + 1  # deletion and addition are one version: nobody sees a half
    table.checkout_latest()
    assert table.count_rows() == 40
    assert table.count_rows("text = 'new'") == 2
    assert table.schema.metadata == SCHEMA.metadata
    hits = table.search(VECTORS[1]).distance_type("cosine").limit(1).to_list()
    assert (hits[0]["key"], hits[0]["text"]) == ("k1", "new")


def test_a_fragment_that_loses_all_its_rows_is_dropped(table):
    replace_rows(table, rows([0], "new"), [f"k{n}" for n in range(20)])
    table.checkout_latest()
    assert table.count_rows() == 21


def test_each_searches_the_index_that_the_other_built(table):
    source = dataset(table)
    source.create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=2)
    table.checkout_latest()
    assert [index.columns for index in table.list_indices()] == [["vector"]]
    hits = table.search(VECTORS[7]).distance_type("cosine").limit(3).to_list()
    assert hits[0]["key"] == "k7"
    table.create_index(
        "vector", config=lancedb.index.IvfFlat(distance_type="cosine", num_partitions=2), replace=True
    )
    nearest = {"column": "vector", "q": VECTORS[9], "k": 3, "metric": "cosine"}
    assert dataset(table).to_table(nearest=nearest)["key"].to_pylist()[0] == "k9"


def test_rows_that_came_after_the_index_are_found_and_taken_in(table):
    table.create_index("vector", config=lancedb.index.IvfFlat(distance_type="cosine", num_partitions=2))
    replace_rows(table, rows([6], "new"), ["k6"])
    table.checkout_latest()
    hits = table.search(VECTORS[6]).distance_type("cosine").nprobes(2).limit(1).to_list()
    assert (hits[0]["key"], hits[0]["text"]) == ("k6", "new")
    table.optimize()
    assert dataset(table).count_rows() == 40


def test_a_stale_commit_is_refused_or_rebased(table):
    """A writer that read an older version loses nothing that was committed since."""
    source = dataset(table)
    fragments = write_fragments(rows([0], "late"), source, mode="append")
    table.delete("key = 'k30'")
    lance.LanceDataset.commit(source, lance.LanceOperation.Append(fragments), read_version=source.version)
    table.checkout_latest()
    assert table.count_rows() == 40
    assert table.count_rows("key = 'k30'") == 0
