"""Fixtures of the tests that train."""

import pytest

from routerretriever import Collection, RouterRetriever


@pytest.fixture
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


@pytest.fixture
def collection(make_collection):
    return Collection.load(make_collection("aliases"))
