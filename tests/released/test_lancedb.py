"""Indexes that LanceDB made, as it did before Lance alone was used, are read, written and maintained.

The folder was written by version 0.1.0 with LanceDB 0.40: a hundred documents and an IVF_RQ index of them,
twenty that were taken in as a second segment, ten that came later, and one that was deleted.
"""

import json
import shutil
from pathlib import Path

import pytest

from routerretriever import Index, RouterRetriever
from routerretriever.data.document import Document

RELEASED = Path(__file__).parent
EXPECTED = json.loads((RELEASED / "lancedb" / "expected.json").read_text(encoding="utf-8"))
QUERY = "word1 word2 lamp"


@pytest.fixture(scope="module")
def model():
    return RouterRetriever.from_pretrained(RELEASED / "v1" / "model", device="cpu")


@pytest.fixture
def index(model, tmp_path):
    return Index.open(shutil.copytree(RELEASED / "lancedb" / "index", tmp_path / "index"), model)


def test_what_it_holds_is_recognised(index):
    found = index.describe()
    assert found.collections == {"one": 99, "two": 30}
    assert (found.kind.kind, found.kind.reason, found.kind.rows) == ("ivf_rq", "asked for", 100)
    assert (found.text.tokenizer, found.text.language) == ("simple", "English")
    assert found.unindexed == 10


@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
def test_it_finds_what_it_found(index, mode):
    hits = index.search(QUERY, 5, mode=mode)
    assert [hit.id for hit in hits] == [document_id for _, document_id, _ in EXPECTED[mode]]
    assert [hit.score for hit in hits] == pytest.approx([score for *_, score in EXPECTED[mode]], abs=1e-4)


def test_it_is_written_and_maintained(index):
    index.upsert([Document("new", "word1 word2 lamp lamp", "", {"year": 2001})], collection="one")
    assert index.delete(["d1"], collection="one") == 1
    taken = index.refresh()
    assert (taken.vectors, taken.texts) == (11, 11)
    assert index.compact().fragments_after == 1
    assert (index.kind.kind, index.describe().unindexed) == ("ivf_rq", 0)
    assert "new" in {hit.id for hit in index.search(QUERY, 5, mode="text")}
    assert index.search(QUERY, 5)[0].id == index.search(QUERY, 5, exact=True)[0].id
    index.build_text_index(tokenizer="ngram")
    assert index.describe().text.tokenizer == "ngram"
    index.drop_text_index()
    index.build_index("flat")
    assert (index.describe().text, index.kind.kind) == (None, "flat")
