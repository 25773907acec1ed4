"""A commit that lost against another writer's is tried again, and nothing else is."""

import lance
import pyarrow as pa
import pytest

from routerretriever.index.conflicts import is_conflict, retrying_conflicts


@pytest.fixture
def table(tmp_path):
    return lance.write_dataset(pa.table({"n": [1]}), tmp_path / "conflict" / "documents.lance")


def raised_by(work):
    with pytest.raises((OSError, RuntimeError)) as caught:
        work()
    return caught.value


def test_conflicts_of_lance_are_recognised(table):
    first, second = lance.dataset(table.uri), lance.dataset(table.uri)
    first.add_columns(pa.schema([("a", pa.int64())]))
    assert is_conflict(raised_by(lambda: second.add_columns(pa.schema([("a", pa.int64())]))))
    assert is_conflict(RuntimeError("Retryable commit conflict for version 8: …"))


def test_two_claims_of_one_setting_are_a_conflict(table):
    first, second = lance.dataset(table.uri), lance.dataset(table.uri)
    first.update_config({"key": "one"})
    assert is_conflict(raised_by(lambda: second.update_config({"key": "two"})))


def test_the_name_of_a_folder_is_no_conflict(table):
    attempts = []

    def read_what_is_gone():
        attempts.append(1)
        lance.dataset(f"{table.uri}-gone")

    error = None
    try:
        retrying_conflicts(read_what_is_gone)
    except (OSError, RuntimeError, ValueError) as raised:
        error = raised
    assert "conflict" in str(error)
    assert not is_conflict(error)
    assert not is_conflict(OSError("No space left on device: /data/conflict/documents.lance"))
    assert attempts == [1]


def test_what_succeeds_after_a_conflict_counts():
    attempts = []

    def work():
        attempts.append(1)
        if len(attempts) < 3:
            raise RuntimeError("Retryable commit conflict for version 8: …")
        return "done"

    assert retrying_conflicts(work) == "done"
    assert len(attempts) == 3
