"""A model without experts, and an empty index for it."""

import pytest

from routerretriever import Index, RouterRetriever


@pytest.fixture(scope="module")
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


@pytest.fixture
def index(model, tmp_path):
    return Index.create(tmp_path / "index", model)
