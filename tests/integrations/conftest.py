"""The model and the index of the shared folder ``built``."""

import pytest

from routerretriever import Index, RouterRetriever


@pytest.fixture(scope="module")
def model(built):
    return RouterRetriever.from_pretrained(built / "model", device="cpu")


@pytest.fixture(scope="module")
def index(built, model):
    return Index.open(built / "index", model)
