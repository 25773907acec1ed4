import json
import math
import os
import pty
import re
import shutil
import subprocess
import sys

import pytest
from commands import run, run_json
from tiny import collection_maker

from routerretriever.cli.app import app
from routerretriever.cli.formatting import print_json
from routerretriever.data.collection import Collection
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.errors import CollectionError
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.storage.locks import changing

QUICK = ["--epochs", "10", "--batch-size", "16", "--lr", "0.01", "--rank", "4", "--anchor", "0"]


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """A folder with two collections and a model that was trained on them."""
    root = tmp_path_factory.mktemp("trained")
    make = collection_maker(root)
    collections = [make("x", 1), make("y", 2)]
    for collection in collections:
        run("train", root / "model", collection, "--base", checkpoint, "--force", *QUICK)
    run("library", root / "model", *collections)
    return root


@pytest.fixture
def trained(made, tmp_path):
    """Model and collections of a test's own."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "model", tmp_path / "x", tmp_path / "y"


def test_the_whole_path(trained, tmp_path):
    model, x, y = trained
    listed = run_json("experts", model)
    assert list(listed["experts"]) == ["x", "y"]
    changed = run_json("library", model, "--margin", "100", "--partial-weight", "0.5", "--no-abstain")[
        "policy"
    ]
    assert (changed["margin"], changed["partial_weight"], changed["abstain"]) == (1.0, 0.5, False)
    assert {route["expert"] for route in run_json("route", model, "word105", "word1")["routes"]} == {"base"}
    assert run_json("library", model, "--margin", "0", "--abstain")["policy"]["margin"] == 0
    assert listed["experts"]["x"]["gain"] == pytest.approx(
        listed["experts"]["x"]["expert_ndcg"] - listed["experts"]["x"]["base_ndcg"]
    )
    route = run_json("route", model, "word105 word105 word75", "word1")["routes"]
    assert set(route[0]["gains"]) == {"base", "x", "y"}
    assert len(route[0]["pilots"]) == 3
    written = run_json("index", model, tmp_path / "index", x)
    assert written["encoded"] == written["documents"] == written["total"] == 60
    assert run_json("index", model, tmp_path / "index", y)["total"] == 120
    found = run_json(
        "search", tmp_path / "index", "word105 word105", "-k", "3", "--where", "collection = 'y'"
    )
    assert [hit["collection"] for hit in found["hits"]] == ["y"] * 3
    pinned = run_json("search", tmp_path / "index", "word105", "--expert", "x")
    assert pinned["expert"] == "x"
    result = run_json("evaluate", model, x, y, "--out", tmp_path / "out")
    assert set(result["collections"]) == {"x", "y"}
    assert (tmp_path / "out" / "report.html").exists()
    assert "routed" in run("evaluate", model, x).stdout


def test_a_search_tokenises_and_routes_its_query_once(trained, tmp_path, monkeypatch):
    model, x, _ = trained
    run("index", model, tmp_path / "index", x)
    tokenised, routed = [], []
    tokens, decide = RoutedEncoder.tokenized_queries, RoutingPolicy.decide

    def noted_tokens(self, queries, *args, **kwargs):
        tokenised.append(list(queries))
        return tokens(self, queries, *args, **kwargs)

    def noted_decide(self, embeddings, *args, **kwargs):
        routed.append(len(embeddings))
        return decide(self, embeddings, *args, **kwargs)

    monkeypatch.setattr(RoutedEncoder, "tokenized_queries", noted_tokens)
    monkeypatch.setattr(RoutingPolicy, "decide", noted_decide)
    run_json("search", tmp_path / "index", "word105 word105")
    assert (tokenised, routed) == ([["word105 word105"]], [1])


def test_one_switch_for_identical_ids(trained, tmp_path):
    model, x, _ = trained
    own = tmp_path / "own"
    shutil.copytree(x, own)
    # Each query is a document with its own id, which ranks first.
    queries = [json.loads(line) for line in (own / "queries.jsonl").read_text().splitlines()]
    with (own / "corpus.jsonl").open("a") as corpus:
        for query in queries:
            corpus.write(json.dumps(query) + "\n")

    def measured(*switch):
        base = run_json("evaluate", model, own, *switch)["collections"]["own"]["systems"]["base"]
        return base["nDCG@10"]

    counted = measured()
    assert measured("--count-identical-ids") == counted
    assert measured("--ignore-identical-ids") > counted


def test_training_and_measuring_know_the_switch_for_identical_ids(trained, tmp_path, monkeypatch):
    model, x, _ = trained
    asked = []

    def load(source, *, ignore_identical_ids=None, **_):
        asked.append(ignore_identical_ids)
        raise CollectionError("Seen enough.")

    monkeypatch.setattr(Collection, "load", load)
    commands = [
        ("train", model, x),
        ("library", model, x),
        ("evaluate", model, x),
        ("experts", "add", model, model / "experts" / "x", "z", "--collection", x),
        ("experts", "check", model, "x", x),
    ]
    for command in commands:
        for switch in ((), ("--ignore-identical-ids",), ("--count-identical-ids",)):
            run(*command, *switch, code=1)
    assert asked == [None, True, False] * len(commands)


def test_experts_come_and_go(trained, tmp_path):
    model, x, y = trained
    copied = tmp_path / "copied"
    shutil.copytree(model / "experts" / "y", copied)
    assert run_json("experts", "remove", model, "x")["experts"].keys() == {"y"}
    both = ["--collection", x, "--collection", y]
    added = run_json("experts", "add", model, copied, "copy", *both)
    assert set(added["experts"]) == {"y", "copy"}
    assert [effect["collection"] for effect in added["harm"]["effects"]] == ["x", "y"]
    assert all(abs(effect["change"]) < 0.005 for effect in added["harm"]["effects"])
    assert run_json("experts", "check", model, "copy", x, y)["harmed"] == []
    assert "without 'copy' and with it" in run("experts", "check", model, "copy", x, y).stdout
    assert run_json("experts", "rename", model, "copy", "twin")["experts"].keys() == {"y", "twin"}
    found = run_json("experts", "diff", model, "y", "twin")
    assert found["same"] and found["cosine"] == pytest.approx(1.0)
    assert found["gains"]["x"][0] == pytest.approx(found["gains"]["x"][1], abs=1e-6)
    assert "the same, factor by factor" in run("experts", "diff", model, "y", "twin").stdout
    merged = run_json("experts", "merge", model, "y", "twin", "--out", "mean", "--weights", "0.5,0.5")
    assert merged["kept_norm"] == pytest.approx(1.0)
    assert run_json("experts", "diff", model, "y", "mean")["cosine"] == pytest.approx(1.0)
    log = run_json("experts", "log", model)
    numbers = {action["what"]: entry["number"] for entry in log["entries"] for action in entry["actions"]}
    assert {"created", "added", "measured", "removed", "renamed"} <= set(numbers)
    before = next(entry["number"] for entry in log["entries"] if entry["actions"][0]["what"] == "removed") - 1
    assert "renamed copy to twin" in run("experts", "log", model).stdout
    assert set(run_json("experts", "rollback", model, before)["experts"]) == {"x", "y"}
    assert set(run_json("experts", model)["experts"]) == {"x", "y"}
    assert f"rolled back to {before}" in run("experts", "log", model, "--prune", "1").stdout
    assert [entry["restorable"] for entry in run_json("experts", "log", model)["entries"]][-1]


def test_plain_output_speaks_to_people(trained, tmp_path):
    model, x, _ = trained
    assert (
        "predicted" in run("route", model, "word105 word105 word75").stdout
        or "fallback" in run("route", model, "word105 word105 word75").stdout
    )
    assert "held-out" in run("experts", model).stdout
    assert (
        "60 documents of 'x': 60 new or changed, 0 unchanged"
        in run("index", model, tmp_path / "index", x).stdout
    )
    assert "expert:" in run("search", tmp_path / "index", "word1").stdout


def test_documents_file(trained, tmp_path):
    model, *_ = trained
    (tmp_path / "notes.jsonl").write_text(
        '{"_id": "1", "text": "word1"}\n{"_id": "2", "text": "word2", "year": 2020}\n'
    )
    assert run_json("index", model, tmp_path / "index", tmp_path / "notes.jsonl")["collection"] == "notes"
    assert len(run_json("search", tmp_path / "index", "word1", "--where", "year = 2020")["hits"]) == 1


def test_what_cannot_be_indexed_is_told(trained, tmp_path):
    model, *_ = trained
    shard, index = tmp_path / "notes.jsonl", tmp_path / "index"
    shard.write_text('{"_id": "1", "text": "word1"}\n{broken\n{"_id": "3", "text": "word3"}\n')
    stopped = run("index", model, index, shard, code=1).stderr
    assert "notes.jsonl, line 2: not valid JSON" in stopped
    assert "--on-error skip" in stopped
    going_on = run("index", model, index, shard, "--on-error", "quarantine")
    assert "2 documents of 'notes': 2 new or changed" in going_on.stdout
    assert "line 2: not valid JSON" in going_on.stderr
    assert "1 left out. Their lines are in" in going_on.stderr
    shard.write_text('{"_id": "1", "text": "word1"}\n')
    assert "No longer in the source: 1 (kept; --prune" in run("index", model, index, shard).stdout
    assert run_json("index", model, index, shard, "--prune", "--collection", "notes")["total"] == 1


def test_upkeep_of_an_index(trained, tmp_path):
    model, x, y = trained
    index = tmp_path / "index"
    assert run_json("index", "add", model, index, x)["encoded"] == 60
    assert run_json("index", "--precision", "fp32", model, index, y)["total"] == 120  # `add` need not be said
    info = run_json("index", "info", index)
    assert info["collections"] == {"x": 60, "y": 60}
    words = {"tokenizer": "simple", "language": "English"}
    assert (info["kind"]["kind"], info["text"]) == ("flat", words)
    assert run_json("index", "build", index, "--no-text") == {
        "index": str(index),
        "vectors": None,
        "text": None,
    }
    refused = run("search", index, "word1", "--mode", "text", code=1).stderr
    assert "has no text index" in refused.replace("\n", " ")
    assert "Add --text" in run("index", "build", index, "--language", "German", code=1).stderr
    assert "'Klingon'" in run("index", "build", index, "--text", "--language", "Klingon", code=1).stderr
    assert run_json("index", "build", index, "--text", "--language", "german")["vectors"] is None
    assert "simple words, language German" in run("index", "info", index).stdout
    assert run_json("index", "build", index)["vectors"]["kind"] == "flat"
    both = run_json("index", "build", index, "--kind", "ivf_flat", "--text")
    assert both["vectors"]["reason"] == "asked for"
    assert both["text"].pop("seconds") >= 0 and both["text"] == words
    found = run_json("search", index, "word105 word1", "--mode", "text", "-k", "2")
    assert (found["expert"], len(found["hits"])) == (None, 2)
    hybrid = run_json("search", index, "word105 word1", "--where", "collection = 'y'")
    assert {hit["collection"] for hit in hybrid["hits"]} == {"y"}
    assert hybrid["mode"] == "hybrid" and 0 < hybrid["vector_weight"] <= 1
    assert run_json("index", "compact", index)["fragments_after"] == 1
    assert run_json("index", "refresh", index)["vectors"] == 0
    assert run_json("index", "clean", index, "--older-than", "0")["versions_after"] == 1
    assert "ivf_flat (asked for)" in run("index", "info", index).stdout
    for verb, says in (
        ("build", "flat"),
        ("compact", "fragments"),
        ("refresh", "0 documents"),
        ("clean", "versions"),
    ):
        assert says in run("index", verb, index).stdout
    assert "by words alone" in run("search", index, "word1", "--mode", "text").stdout


def test_lines_are_whole_and_no_sign_in_them_is_markup(trained, tmp_path):
    query = "[bold]word1[/] [x] " + "word2 " * 40
    assert f"{query} → " in run("route", trained[0], query).stdout
    index = tmp_path / ("long-" * 20) / "index"
    shard = tmp_path / "notes.jsonl"
    shard.write_text(json.dumps({"_id": "[b]a[/b]", "text": "word1"}) + "\n", encoding="utf-8")
    assert f"{index} now" in run("index", trained[0], index, shard).stdout
    assert "[b]a[/b]" in run("search", index, "word1").stdout


def test_the_verbs_of_an_index_are_shown():
    shown = run("index", "--help").stdout
    for verb in ("add", "build", "compact", "refresh", "clean", "info"):
        assert verb in shown
    assert "MODEL INDEX COLLECTION" in shown
    assert "Missing argument" in run("index", "just-a-model", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "{model}", "{tmp}/i", "{tmp}/nothing"], "no collection at"),
        (["index", "info", "{tmp}/i"], "no index at"),
        (["index", "build", "{tmp}/i"], "no index at"),
        (["train", "{tmp}/m", "{tmp}/nothing"], "no collection at"),
        (["train", "{tmp}/m", "{x}", "--preset", "best"], "no preset 'best'"),
        (["library", "{tmp}/m", "{x}"], "not a RouterRetriever model"),
        (["route", "{tmp}/m", "query"], "no model at"),
        (["search", "{tmp}/i", "query"], "no index at"),
        (["search", "{tmp}/i", " "], "query is empty"),
        (["route", "{model}", "word1", ""], "query is empty"),
        (["search", "{tmp}/i", "query", "--mode", "magic"], "no search mode 'magic'"),
        (["evaluate", "{model}", "{x}", "--split", "exam"], "no split 'exam'"),
        (["experts", "remove", "{model}", "nobody"], "no expert 'nobody'"),
        (
            ["experts", "add", "{model}", "{model}/experts/x", "z"],
            "without the data of the library's collections x, y",
        ),
        (["experts", "add", "{model}", "{model}"], "Name one expert's folder"),
        (["experts", "rename", "{model}", "x", "y"], "already has an expert 'y'"),
        (["experts", "diff", "{model}", "x", "z"], "no expert 'z'"),
        (["experts", "merge", "{model}", "x", "--out", "z"], "at least two"),
        (["experts", "merge", "{model}", "x", "y", "--out", "z", "--weights", "a,b"], "not numbers"),
        (["experts", "rollback", "{model}", "99"], "no entry 99"),
        (["experts", "log", "{tmp}/m"], "not a RouterRetriever model"),
        (["doctor", "{tmp}/m"], "not a RouterRetriever model"),
        (["train", "{model}", "{x}", "--name", "x"], "already has an expert 'x'"),
        (["train", "{model}", "{x}", "--name", "z", "--base", "other/base"], "has the base"),
        (["train", "{model}", "{x}", "--name", "z", "--preset", "paper"], "Give --preset paper a new folder"),
        (["library", "{model}", "{x}", "--router", "best"], "no router 'best'"),
    ],
)
def test_errors_are_one_sentence_and_exit_1(trained, tmp_path, arguments, message):
    model, x, _ = trained
    filled = [a.format(tmp=tmp_path, model=model, x=x) for a in arguments]
    result = run(*filled, code=1)
    assert message in re.sub(r"\s+", " ", result.stderr)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    error = run_json(*filled, code=1)["error"]
    assert error["type"].endswith("Error")
    assert message in error["message"]


def test_a_query_may_begin_with_a_hyphen(trained):
    refused = re.sub(r"\W*\n\W*", " ", run("route", trained[0], "-word1", code=2).stderr)
    assert "put -- before the query" in refused
    assert run_json("route", trained[0], "--json", "--", "-word1")["routes"][0]["query"] == "-word1"


def test_an_anchored_training_says_so(trained):
    model, x, _ = trained
    report = run_json("train", model, x, "--name", "z", "--force", "--epochs", "1", "--anchor", "2.5")
    assert report["info"]["config"]["anchor"] == 2.5


@pytest.mark.parametrize("verb", ["train", "library"])
def test_a_change_of_a_model_waits_for_another(trained, verb, monkeypatch):
    model, _, y = trained
    monkeypatch.setattr("routerretriever.storage.locks.LOCK_SECONDS", 0.01)
    added = ["--name", "z", "--force", *QUICK] if verb == "train" else []
    with changing(model):
        assert "is changing" in run(verb, model, y, *added, code=1).stderr
    run(verb, model, y, *added)


def test_json_has_no_number_that_json_does_not_know(capsys):
    print_json({"a": [math.nan, 1.5, (math.inf,)]})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5, [None]]}


def test_a_search_encodes_its_query_once(trained, tmp_path, monkeypatch):
    model, x, _ = trained
    run("index", model, tmp_path / "index", x)
    passes = []
    forward = RoutedEncoder.forward_by
    monkeypatch.setattr(RoutedEncoder, "forward_by", lambda *a, **k: passes.append(1) or forward(*a, **k))
    assert run_json("search", tmp_path / "index", "word105")["hits"]
    assert len(passes) == 1


def test_every_option_is_explained():
    import typer

    group = typer.main.get_command(app)
    assert set(group.commands) == {
        "compile",
        "synthesize",
        "train",
        "library",
        "experts",
        "doctor",
        "route",
        "index",
        "search",
        "serve",
        "shadow",
        "up",
        "feedback",
        "mcp",
        "export",
        "push",
        "pull",
        "evaluate",
        "bench",
    }
    index = group.commands["index"]
    assert set(index.commands) == {
        "add",
        "adopt",
        "build",
        "clean",
        "compact",
        "export",
        "info",
        "migrate",
        "refresh",
    }
    experts = group.commands["experts"]
    assert set(experts.commands) == {
        "list",
        "add",
        "check",
        "remove",
        "rename",
        "diff",
        "merge",
        "log",
        "rollback",
    }
    verbs = [(n, c) for n, c in group.commands.items() if c not in (index, experts)]
    for name, command in [*verbs, *index.commands.items(), *experts.commands.items()]:
        assert command.help, name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, (name, parameter.name)
        if name != "mcp":  # the protocol owns its output
            assert "--json" in {option for p in command.params for option in p.opts}, name


HEAVY = {
    "fastapi",
    "httpx",
    "jinja2",
    "lance",
    "numpy",
    "peft",
    "pyarrow",
    "pydantic",
    "scipy",
}
HEAVY |= {"huggingface_hub", "sentence_transformers", "sklearn", "torch", "transformers", "yaml"}


def test_help_and_version_are_quick_and_load_nothing_heavy():
    code = (
        "import sys\nfrom routerretriever.cli.app import app\n"
        "try: app(['--help'])\nexcept SystemExit: print('loaded', *sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    loaded = shown.rpartition("loaded ")[2].split()
    assert "typer" in loaded
    assert HEAVY.isdisjoint(loaded)
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.slow
def test_progress_goes_to_a_terminal_and_nowhere_else(checkpoint, make_collection, tmp_path):
    """With a pipe nothing but the JSON document is printed; on a terminal there is a bar with rate and time."""
    x = make_collection("x", 1)
    command = [
        sys.executable,
        "-m",
        "routerretriever",
        "train",
        str(tmp_path / "m"),
        str(x),
        "--base",
        str(checkpoint),
    ]
    command += ["--force", "--json", *QUICK]
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(piped.stdout)["expert"] == "x"
    assert piped.stderr == ""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=child, env={**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    )
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 65536)
        except OSError:
            break
    assert json.loads(process.communicate()[0])["expert"] == "x"
    assert b"train x" in shown
    assert b"/s" in shown
