"""Pushing and pulling with the hub's real client; a folder behind the hub's protocol stands in for the hub."""

import json

import numpy as np
import pytest
from conftest import random_adapter
from hub_server import TOKEN, hub
from huggingface_hub import constants
from peft import PeftModel
from typer.testing import CliRunner

from routerretriever import Collection, RouterRetriever, add_expert_from, push_expert, push_model
from routerretriever.cli import app
from routerretriever.errors import ExpertError, FormatError, HubError
from routerretriever.hub import downloaded
from routerretriever.routing_quality import routing_quality
from routerretriever.storage import ExpertInfo

QUERY = "word3 word5 zap"


@pytest.fixture
def served(tmp_path, monkeypatch):
    with hub(tmp_path / "hub") as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        template = running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "downloads"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def model(checkpoint, make_collection):
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    for seed, name in enumerate(("law", "sea")):
        info = ExpertInfo(name, 40, 10, 0.5, 0.625)
        model.add_expert(name, random_adapter(model.encoder.lora_layers, seed), info)
    model.build_library([Collection.load(make_collection("law", 1)), Collection.load(make_collection("sea", 2))])
    return model


def test_a_model_goes_to_the_hub_and_comes_back(served, model):
    url = push_model(model, "me/router", licence="apache-2.0", private=True)
    assert url == f"{served.endpoint}/me/router"
    pulled = RouterRetriever.from_pretrained("me/router", device="cpu")
    assert list(pulled.experts) == ["law", "sea"]
    np.testing.assert_array_equal(pulled.encode_query([QUERY]), model.encode_query([QUERY]))
    assert pulled.route([QUERY])[0].gains == pytest.approx(model.route([QUERY])[0].gains)
    assert not [name for name in served.files("me/router") if name.startswith("history")]


def test_the_card_says_what_one_needs_to_know(served, model):
    push_model(model, "me/router", licence="apache-2.0")
    card = served.files("me/router")["README.md"].decode()
    head = card.split("---")[1]
    assert f"base_model: {model.encoder.base.id}\n" in head
    assert "license: apache-2.0\n" in head
    assert "| law | law | 40 | 10 | 50.0 | 62.5 |" in card
    assert 'from_pretrained("me/router")' in card
    assert "Licence: apache-2.0." in card
    assert f"cut after {model.max_seq_length} tokens" in card
    for row in routing_quality(model.encoder.policy):
        figures = f"| {100 * row.share:.0f}% | {100 * row.gain:+.1f} | {row.best_expert} | {100 * row.best_gain:+.1f} |"
        assert f"| {row.collection} | {row.queries} {figures}" in card


def test_what_is_gone_here_is_gone_there(served, model):
    push_model(model, "me/router")
    model.remove_expert("law")
    push_model(model, "me/router")
    names = served.files("me/router")
    assert [name for name in names if name.startswith("experts/law")] == []
    assert list(RouterRetriever.from_pretrained("me/router", device="cpu").experts) == ["sea"]


def test_an_older_revision_can_be_asked_for(served, model):
    push_model(model, "me/router")
    first = (served.folder / "me/router/HEAD").read_text()
    model.remove_expert("law")
    push_model(model, "me/router")
    pulled = RouterRetriever.from_pretrained("me/router", revision=first, device="cpu")
    assert list(pulled.experts) == ["law", "sea"]


def test_an_expert_goes_alone_and_joins_another_model(served, model, checkpoint):
    push_expert(model, "law", "me/law-expert", licence="mit")
    files = served.files("me/law-expert")
    assert {"adapter_config.json", "adapter_model.safetensors", "expert.json", "README.md"} <= set(files)
    assert "license: mit\n" in files["README.md"].decode()
    other = RouterRetriever.create(str(checkpoint), device="cpu")
    name, _ = add_expert_from(other, "me/law-expert")
    assert name == "law-expert"
    assert other.experts["law-expert"].collection == "law"
    wanted = model.encode_query([QUERY], expert="law")
    np.testing.assert_allclose(other.encode_query([QUERY], expert="law-expert"), wanted, atol=1e-6)
    plain = RouterRetriever.create(str(checkpoint), device="cpu").encoder.transformer.model
    assert PeftModel.from_pretrained(plain, downloaded("me/law-expert")).peft_config["default"].r == 4


def test_an_expert_of_a_model_on_the_hub_keeps_its_name(served, model, checkpoint):
    model.remove_expert("sea")
    push_model(model, "me/router")
    other = RouterRetriever.create(str(checkpoint), device="cpu")
    assert add_expert_from(other, "me/router")[0] == "law"


def test_refusals_say_what_to_do(served, model, monkeypatch):
    with pytest.raises(HubError, match="'router' is no name on the hub"):
        push_model(model, "router")
    with pytest.raises(ExpertError, match="no expert 'tax'.*law, sea"):
        push_expert(model, "tax", "me/tax")
    with pytest.raises(HubError, match="no folder 'me/none' here.*HF_TOKEN"):
        RouterRetriever.from_pretrained("me/none")
    with pytest.raises(FormatError, match="no model at"):
        RouterRetriever.from_pretrained("./me/none")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="could not be uploaded.*Invalid username or password.*hf auth login"):
        push_model(model, "me/router")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="'me/router' could not be uploaded"):
        push_model(model, "me/router")


def test_the_command(served, model, tmp_path):
    model.save_pretrained(tmp_path / "router")
    done = CliRunner().invoke(app, ["push", str(tmp_path / "router"), "me/router", "--json"])
    assert json.loads(done.stdout) == {"url": f"{served.endpoint}/me/router", "expert": None}
    done = CliRunner().invoke(app, ["push", str(tmp_path / "router"), "me/sea", "--expert", "sea"])
    assert f"It is at {served.endpoint}/me/sea" in done.stdout
    assert "adapter_config.json" in served.files("me/sea")
