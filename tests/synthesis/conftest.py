"""A model, documents without queries, and endpoints for the tests of synthesis."""

import pytest
from documents import texts, write_documents
from synthesis_server import Endpoint

from routerretriever import RouterRetriever


@pytest.fixture
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


@pytest.fixture
def bare(tmp_path):
    """Eighty documents."""
    return write_documents(tmp_path / "bare.jsonl", texts(), year=2020)


@pytest.fixture
def few(tmp_path):
    """Thirty documents."""
    return write_documents(tmp_path / "bare.jsonl", texts(30))


@pytest.fixture
def serve():
    """Starts endpoints that behave as told."""
    running = []

    def start(behave=None):
        running.append(Endpoint(behave))
        return running[-1]

    yield start
    for endpoint in running:
        endpoint.close()
