"""One batch: queries, documents, and what went wrong."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from routerretriever import RouterRetriever
from routerretriever.errors import ExpertError
from routerretriever.server.answering import Answering
from routerretriever.server.batching import Row
from routerretriever.server.encode_batch import BatchEncoder
from routerretriever.server.metrics import Metrics


@pytest.fixture(scope="module")
def model(built):
    return RouterRetriever.from_pretrained(built / "model", device="cpu").eval()


def row(content, kind="query", expert=None):
    return Row(content=content, kind=kind, expert=expert, cost=5)


def test_an_expert_that_was_removed_meanwhile_fails_its_own_rows(model):
    rows = [row("word1"), row("word2", expert="gone"), row("word3", "document"), row("word4", expert="alpha")]
    routed, gone, document, pinned = BatchEncoder(model, Answering(model), Metrics())(rows, 1)
    assert isinstance(gone, ExpertError) and "'gone'" in str(gone)
    assert (document.expert, pinned.expert) == ("base", "alpha")
    np.testing.assert_allclose(routed.vector, model.encode_query(["word1"])[0], atol=1e-5)
    np.testing.assert_allclose(document.vector, model.encode_document(["word3"])[0], atol=1e-5)
    np.testing.assert_allclose(pinned.vector, model.encode_query(["word4"], expert="alpha")[0], atol=1e-5)


@pytest.mark.parametrize(
    "prompts", [{"passage": "word9 word9 "}, {"document": "word8 ", "passage": "word9 "}]
)
def test_documents_have_the_prompt_that_encode_document_gives(checkpoint, tmp_path, prompts):
    SentenceTransformer(str(checkpoint), prompts=prompts, device="cpu").save_pretrained(str(tmp_path))
    own = RouterRetriever.create(str(tmp_path), device="cpu").eval()
    (found,) = BatchEncoder(own, Answering(own), Metrics())([row("word3 word4", "document")], 1)
    np.testing.assert_allclose(found.vector, own.encode_document(["word3 word4"])[0], atol=1e-5)


def test_only_experts_that_were_removed(model):
    (gone,) = BatchEncoder(model, Answering(model), Metrics())([row("word1", expert="gone")], 1)
    assert isinstance(gone, ExpertError)
