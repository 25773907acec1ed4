"""What writing and maintaining an index rely on in Lance."""

import lance
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
    """Forty rows in two versions."""
    table = lance.write_dataset(rows(range(20)), tmp_path / "documents.lance")
    return lance.write_dataset(rows(range(20, 40)), table, mode="append")


def nearest(table, number, **how):
    found = table.to_table(
        nearest={"column": "vector", "q": VECTORS[number], "k": 3, "metric": "cosine", **how}
    )
    return found["key"][0].as_py(), found["text"][0].as_py()


def replace_rows(table, new, keys):
    """Delete rows by key and append others in one commit, the way cluster writers do."""
    source = lance.dataset(table.uri)
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


def test_what_is_committed_is_seen_at_once_and_keeps_the_metadata(table):
    before = table.version
    committed = replace_rows(table, rows([1, 2], "new"), ["k1", "k2"])
    assert committed.version == before + 1  # deletion and addition are one version: nobody sees a half
    table.checkout_latest()
    assert table.count_rows() == 40
    assert table.count_rows("text = 'new'") == 2
    assert table.schema.metadata == SCHEMA.metadata
    assert nearest(table, 1) == ("k1", "new")


def test_a_fragment_that_loses_all_its_rows_is_dropped(table):
    replace_rows(table, rows([0], "new"), [f"k{n}" for n in range(20)])
    table.checkout_latest()
    assert table.count_rows() == 21


def test_rows_that_came_after_the_index_are_found_and_taken_in(table):
    table.create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=2)
    replace_rows(table, rows([6], "new"), ["k6"])
    table.checkout_latest()
    assert nearest(table, 6, nprobes=2) == ("k6", "new")
    assert table.describe_indices()[0].num_rows_indexed == 39
    table.optimize.optimize_indices()
    assert table.describe_indices()[0].num_rows_indexed == table.count_rows() == 40


def test_a_stale_commit_is_refused_or_rebased(table):
    """A writer that read an older version loses nothing that was committed since."""
    source = lance.dataset(table.uri)
    fragments = write_fragments(rows([0], "late"), source, mode="append")
    table.delete("key = 'k30'")
    lance.LanceDataset.commit(source, lance.LanceOperation.Append(fragments), read_version=source.version)
    table.checkout_latest()
    assert table.count_rows() == 40
    assert table.count_rows("key = 'k30'") == 0
