"""The private interface of Lance that searches use does what they rely on."""

from routerretriever.data.document import Document
from routerretriever.index.lance_rows import rows_by_id


def test_rows_come_in_the_order_of_their_ids_also_after_a_deletion(index):
    index.upsert([Document(f"d{n}", f"text {n}") for n in range(20)])
    index.delete(["d3", "d4"])
    dataset = index._store.table.latest.get().dataset
    found = dataset.scanner(columns=["key"], with_row_id=True).to_table()
    rows, keys = found["_rowid"].to_numpy()[::-1], found["key"].to_pylist()[::-1]

    read = rows_by_id(dataset, rows, ["vector", "key"])

    assert read["key"].to_pylist() == keys
    assert read.column_names == ["vector", "key"]
    assert rows_by_id(dataset, rows[:0], ["vector", "key"]).num_rows == 0
