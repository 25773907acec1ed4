"""Pushing and pulling with the hub's real client; a folder behind the hub's protocol stands in for the hub."""

import json
import shutil

import numpy as np
import pytest
from hub_server import TOKEN, hub, use
from huggingface_hub import HfApi, ModelCard, constants
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from serving import running, wait_until_ready
from tiny import random_adapter
from typer.testing import CliRunner

from routerretriever import Collection, Index, RouterRetriever, add_expert, pull, push_expert, push_model
from routerretriever.cli.app import app
from routerretriever.errors import ExpertError, FormatError, HubError, ModelError
from routerretriever.lora.expert_info import ExpertInfo
from routerretriever.routing.self_check import routing_quality
from routerretriever.storage.hub_download import downloaded

QUERY = "word3 word5 zap"
# The hub's client says to its own transport what that will not hear any more.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def served(tmp_path, monkeypatch):
    with hub(tmp_path / "hub") as running:
        use(running, tmp_path / "downloads", monkeypatch)
        yield running


@pytest.fixture
def model(checkpoint, make_collection):
    model = RouterRetriever.create(str(checkpoint), device="cpu")
    for seed, name in enumerate(("law", "sea")):
        info = ExpertInfo(name, 40, 10, 0.5, 0.625)
        model.add_expert(name, random_adapter(model.encoder.lora_layers, seed), info)
    model.build_library(
        [Collection.load(make_collection("law", 1)), Collection.load(make_collection("sea", 2))]
    )
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
    for row in routing_quality(model.state.policy):
        figures = f"| {100 * row.share:.0f}% | {100 * row.gain:+.1f} | {row.best_expert} | {100 * row.best_gain:+.1f} |"
        assert f"| {row.collection} | {row.queries} {figures}" in card


def test_the_card_says_the_licences_and_its_metadata_is_the_hubs(served, checkpoint, model, tmp_path):
    licensed = shutil.copytree(checkpoint, tmp_path / "licensed")
    (licensed / "README.md").write_text("---\nlicense: mit\n---\n# A base\n", encoding="utf-8")
    assert RouterRetriever.create(str(checkpoint), device="cpu").encoder.base.licence is None
    push_model(model, "me/router")
    assert "(licence: see the base)" in ModelCard.load("me/router").text
    model.encoder.base = RouterRetriever.create(str(licensed), device="cpu").encoder.base
    model.save_pretrained(tmp_path / "router")
    run(
        "push", tmp_path / "router", "me/router", "--licence", "apache-2.0", "--data-licence", "law=cc-by-4.0"
    )
    card = ModelCard.load("me/router")
    assert "(licence: mit)" in card.text
    assert "(licence of each expert's data: law: cc-by-4.0; sea: not stated)" in card.text
    assert (card.data.license, card.data.datasets) == ("apache-2.0", ["law", "sea"])
    found = {
        (result.dataset_name, result.metric_name): result.metric_value for result in card.data.eval_results
    }
    assert found["law", "nDCG@10 by the expert law"] == 0.625
    assert found["sea", "nDCG@10 by the base"] == 0.5
    pulled = RouterRetriever.from_pretrained("me/router", device="cpu")
    assert (pulled.experts["law"].data_licence, pulled.encoder.base.licence) == ("cc-by-4.0", "mit")
    push_expert(pulled, "law", "me/law")
    alone = ModelCard.load("me/law")
    assert "(licence of each expert's data: law: cc-by-4.0)" in alone.text and alone.data.datasets == ["law"]
    assert "as in ops=cc-by-4.0" in run(
        "push", tmp_path / "router", "me/router", "--data-licence", "law", code=1
    )
    with pytest.raises(ExpertError, match="no expert 'tax'"):
        push_model(model, "me/router", data_licences={"tax": "mit"})


def test_what_is_gone_here_is_gone_there(served, model):
    push_model(model, "me/router")
    model.remove_expert("law")
    push_model(model, "me/router")
    names = served.files("me/router")
    assert [name for name in names if name.startswith("experts/law")] == []
    assert list(RouterRetriever.from_pretrained("me/router", device="cpu").experts) == ["sea"]


def test_an_older_revision_can_be_asked_for(served, model, checkpoint):
    push_model(model, "me/router")
    first = (served.folder / "me/router/HEAD").read_text()
    model.remove_expert("law")
    push_model(model, "me/router")
    pulled = RouterRetriever.from_pretrained("me/router", revision=first, device="cpu")
    assert list(pulled.experts) == ["law", "sea"]
    assert list(RouterRetriever.from_pretrained(f"me/router@{first}", device="cpu").experts) == ["law", "sea"]
    push_expert(model, "sea", "me/sea-expert")
    other = RouterRetriever.create(str(checkpoint), device="cpu")
    assert (
        add_expert(other, f"me/sea-expert@{(served.folder / 'me/sea-expert/HEAD').read_text()}")[0]
        == "sea-expert"
    )


def test_sentence_transformers_reads_it_as_well(served, model):
    push_model(model, "me/router")
    plain = SentenceTransformer("me/router", trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(plain.encode_query([QUERY]), model.encode_query([QUERY]), atol=1e-6)


def test_weights_go_by_lfs_and_only_once(served, model):
    push_model(model, "me/router")
    sent = [path for method, path in served.requests if method == "PUT"]
    assert len(sent) == 4  # base, two experts, pilots
    assert ("POST", "/lfs/verify") in served.requests
    push_model(model, "me/again")
    assert [path for method, path in served.requests if method == "PUT"] == sent
    assert list(RouterRetriever.from_pretrained("me/again", device="cpu").experts) == ["law", "sea"]


def test_a_private_model_needs_the_token(served, model, monkeypatch):
    push_model(model, "me/secret", private=True)
    push_model(model, "me/open", private=False)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="'me/secret'.*repository not found or private.*HF_TOKEN"):
        RouterRetriever.from_pretrained("me/secret", device="cpu")
    with pytest.raises(HubError, match=r"'me/secret'.*HF_TOKEN"):
        pull("me/secret", "secret")
    assert list(RouterRetriever.from_pretrained("me/open", device="cpu").experts) == ["law", "sea"]
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert list(RouterRetriever.from_pretrained("me/secret", device="cpu").experts) == ["law", "sea"]


def test_what_was_downloaded_works_without_the_hub(served, model, monkeypatch):
    push_model(model, "me/router")
    RouterRetriever.from_pretrained("me/router", device="cpu")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert list(RouterRetriever.from_pretrained("me/router", device="cpu").experts) == ["law", "sea"]
    with pytest.raises(HubError, match="the cache has no copy: HF_HUB_OFFLINE is set"):
        RouterRetriever.from_pretrained("me/unknown")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert list(RouterRetriever.from_pretrained("me/router", device="cpu").experts) == ["law", "sea"]
    with pytest.raises(HubError, match="the cache has no copy: .*refused"):
        RouterRetriever.from_pretrained("me/unknown")


def test_an_expert_goes_alone_and_joins_another_model(served, model, checkpoint):
    push_expert(model, "law", "me/law-expert", licence="mit")
    files = served.files("me/law-expert")
    assert {"adapter_config.json", "adapter_model.safetensors", "expert.json", "README.md"} <= set(files)
    assert "license: mit\n" in files["README.md"].decode()
    other = RouterRetriever.create(str(checkpoint), device="cpu")
    name, _ = add_expert(other, "me/law-expert")
    assert name == "law-expert"
    assert other.experts["law-expert"].collection == "law"
    wanted = model.encode_query([QUERY], expert="law")
    np.testing.assert_allclose(other.encode_query([QUERY], expert="law-expert"), wanted, atol=1e-6)
    plain = RouterRetriever.create(str(checkpoint), device="cpu").encoder.body.model
    assert PeftModel.from_pretrained(plain, downloaded("me/law-expert")).peft_config["default"].r == 4


def test_an_expert_of_a_model_on_the_hub_keeps_its_name(served, model, checkpoint):
    model.remove_expert("sea")
    push_model(model, "me/router")
    other = RouterRetriever.create(str(checkpoint), device="cpu")
    assert add_expert(other, "me/router")[0] == "law"


def test_refusals_say_what_to_do(served, model, monkeypatch):
    with pytest.raises(HubError, match="'router' cannot be a name on the hub"):
        push_model(model, "router")
    with pytest.raises(ExpertError, match="no expert 'tax'.*law, sea"):
        push_expert(model, "tax", "me/tax")
    with pytest.raises(HubError, match="no folder 'me/none', and.*HF_TOKEN"):
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
    assert f"Uploaded to {served.endpoint}/me/sea" in done.stdout
    assert "adapter_config.json" in served.files("me/sea")


def test_a_copy_is_ones_own(served, model, tmp_path):
    push_model(model, "me/router")
    assert pull("me/router", tmp_path / "copy") == tmp_path / "copy"
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.is_symlink()]
    assert json.loads(run("experts", "remove", tmp_path / "copy", "law", "--json"))["experts"].keys() == {
        "sea"
    }
    assert list(RouterRetriever.from_pretrained("me/router", device="cpu").experts) == ["law", "sea"]
    push_expert(model, "law", "me/law-expert")
    alone = tmp_path / "copies" / "law"
    assert f"Copied me/law-expert to {alone}" in run("pull", "me/law-expert", alone)
    assert json.loads(run("experts", "add", tmp_path / "copy", alone, "--force", "--json"))["expert"] == "law"
    with pytest.raises(ModelError, match="is not empty"):
        pull("me/router", tmp_path / "copy")
    HfApi(endpoint=served.endpoint).create_repo("me/other")
    with pytest.raises(HubError, match="'me/other' is neither a RouterRetriever model nor an expert"):
        pull("me/other", tmp_path / "other")
    with pytest.raises(HubError, match="'router' cannot be a name on the hub"):
        pull("router", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def run(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, (arguments, done.output, done.exception)
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder to work in, where nothing is called as the model on the hub is."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.slow  # needs MCP
def test_every_command_that_reads_takes_a_name(served, model, make_collection, elsewhere, monkeypatch):
    import routerretriever.integrations.mcp_server as mcp_server
    import routerretriever.server as server

    push_model(model, "me/router")
    law = make_collection("law", 1)
    (elsewhere / "docs.jsonl").write_text('{"_id": "1", "text": "word3 word5"}\n', encoding="utf-8")
    started = []
    monkeypatch.setattr(server, "serve", started.append)
    stopped = type("Stopped", (), {"run": lambda self: started.append("mcp")})()
    monkeypatch.setattr(mcp_server, "make_server", lambda model, index: stopped)
    assert json.loads(run("experts", "me/router", "--json"))["experts"].keys() == {"law", "sea"}
    assert json.loads(run("route", "me/router", QUERY, "--json"))["routes"]
    assert run("experts", "log", "me/router").endswith("that stays with the folder it was pushed from.\n")
    assert json.loads(run("experts", "diff", "me/router", "law", "law", "--other", "me/router", "--json"))[
        "same"
    ]
    assert "held-out" in run(
        "experts", "check", "me/router", "law", law, make_collection("sea", 2), "--margin", "100"
    )
    assert json.loads(run("doctor", "me/router", "--json"))["findings"]
    assert json.loads(run("feedback", "me/router", "--list", "--json")) == {"batches": []}
    assert json.loads(run("evaluate", "me/router", law, "--limit", "5", "--out", "report", "--json"))[
        "collections"
    ]
    assert json.loads(run("index", "me/router", "docs", "docs.jsonl", "--json"))["total"] == 1
    assert json.loads(run("search", "docs", QUERY, "--model", "me/router", "--json"))["hits"]
    assert (
        json.loads(run("export", "me/router", "--expert", "law", "--out", "plain", "--json"))["expert"]
        == "law"
    )
    assert "me/again" in run("push", "me/router", "me/again")
    run("serve", "me/router", "--index", "docs")
    run("mcp", "me/router", "--index", "docs")
    assert started[0].model.is_dir() and started[1] == "mcp"
    with running(started[0]) as client:
        assert wait_until_ready(client).post("/v1/embeddings", json={"input": QUERY}).status_code == 200
    assert not (elsewhere / "me").exists()
    snapshots = started[0].model.parent
    assert [path.name for path in snapshots.iterdir()] == [
        started[0].model.name
    ]  # nothing of ours in the cache


def test_an_index_remembers_the_name(served, model, elsewhere, monkeypatch, tmp_path):
    push_model(model, "me/router")
    first = (served.folder / "me/router/HEAD").read_text()
    (elsewhere / "docs.jsonl").write_text('{"_id": "1", "text": "word3 word5"}\n', encoding="utf-8")
    run("index", "me/router", "docs", "docs.jsonl")
    run("index", f"me/router@{first}", "fixed", "docs.jsonl")
    model.remove_expert("law")
    push_model(model, "me/router")
    (tmp_path / "other" / "me" / "router").mkdir(parents=True)  # a folder that happens to be called so
    monkeypatch.chdir(tmp_path / "other")
    assert [hit["id"] for hit in json.loads(run("search", elsewhere / "docs", QUERY, "--json"))["hits"]] == [
        "1"
    ]
    assert list(Index.open(elsewhere / "docs").model.experts) == ["sea"]
    assert list(Index.open(elsewhere / "fixed").model.experts) == ["law", "sea"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert json.loads(run("search", elsewhere / "docs", QUERY, "--json"))["hits"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["library", "MODEL", "{law}"],
        ["experts", "add", "MODEL", "me/law-expert"],
        ["experts", "remove", "MODEL", "law"],
        ["experts", "rename", "MODEL", "law", "tax"],
        ["experts", "merge", "MODEL", "law", "sea", "--out", "both"],
        ["experts", "log", "MODEL", "--prune", "1"],
        ["experts", "rollback", "MODEL", "1"],
        ["feedback", "MODEL", "log.jsonl", "--index", "docs"],
        ["feedback", "MODEL", "--undo"],
        ["serve", "MODEL", "--admin-key-file", "keys"],
    ],
)
def test_commands_that_change_a_model_want_a_copy(served, make_collection, elsewhere, arguments):
    (elsewhere / "keys").write_text("an-admin-key-that-is-long-enough\n", encoding="utf-8")
    law = make_collection("law", 1)
    cached = constants.HF_HUB_CACHE + "/models--me--router/snapshots/abc"
    for name, advice in (("me/router", "pull me/router FOLDER"), (cached, "pull USER/NAME FOLDER")):
        given = [argument.format(law=law).replace("MODEL", name) for argument in arguments]
        assert f"routerretriever {advice}" in run(*given, code=1).replace("\n", " ")
    assert served.requests == [] and not (elsewhere / "me").exists()


def test_training_makes_a_folder_of_that_name(served, checkpoint, make_collection, elsewhere):
    quick = ["--epochs", "1", "--rank", "2", "--force", "--base", checkpoint]
    run("train", "me/router", make_collection("law", 1), *quick)
    assert (elsewhere / "me" / "router" / "routerretriever.json").exists() and served.requests == []
    assert json.loads(run("experts", "me/router", "--json"))["experts"].keys() == {"law"}
