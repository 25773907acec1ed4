"""Pushing and pulling with the hub's real client; a folder behind the hub's protocol stands in for the hub."""

import json

import pytest
from hub_server import TOKEN, hub
from huggingface_hub import constants
from peft import PeftConfig

from routerretriever import RouterRetriever
from routerretriever.errors import ExpertError, HubError
from routerretriever.hub import downloaded, is_hub_name, push_expert, push_model


@pytest.fixture
def served(tmp_path, monkeypatch):
    with hub(tmp_path / "hub") as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running
