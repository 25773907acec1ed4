import json
import os
import pty
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from routerretriever.cli import app

QUICK = ["--epochs", "10", "--batch-size", "16", "--lr", "0.01", "--rank", "4"]


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return result


def run_json(*arguments, code=0):
    return json.loads(run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def trained(checkpoint, make_collection, tmp_path):
    x, y = make_collection("x", 1), make_collection("y", 2)
    model = tmp_path / "model"
    for collection in (x, y):
        run("train", model, collection, "--base", checkpoint, "--force", *QUICK)
    run("library", model, x, y)
    return model, x, y


def test_the_whole_path(trained, tmp_path):
    model, x, y = trained
    listed = run_json("experts", model)
    assert list(listed["experts"]) == ["x", "y"]
    assert listed["experts"]["x"]["gain"] == pytest.approx(
        listed["experts"]["x"]["expert_ndcg"] - listed["experts"]["x"]["base_ndcg"]
    )
    route = run_json("route", model, "word105 word105 word75", "word1")["routes"]
    assert set(route[0]["gains"]) == {"base", "x", "y"}
    assert len(route[0]["pilots"]) == 3
    written = run_json("index", model, tmp_path / "index", x)
    assert written["written"] == written["documents"] == 60
    assert run_json("index", model, tmp_path / "index", y)["documents"] == 120
    found = run_json("search", tmp_path / "index", "word105 word105", "-k", "3", "--where", "collection = 'y'")
    assert [hit["collection"] for hit in found["hits"]] == ["y"] * 3
    pinned = run_json("search", tmp_path / "index", "word105", "--expert", "x")
    assert pinned["expert"] == "x"
    result = run_json("evaluate", model, x, y, "--out", tmp_path / "out")
    assert set(result["collections"]) == {"x", "y"}
    assert (tmp_path / "out" / "report.html").exists()
    assert "routed" in run("evaluate", model, x).stdout
    assert run_json("experts", model, "remove", "x")["experts"].keys() == {"y"}
    imported = run_json("experts", model, "import", model / "experts" / "y", "--name", "copy")
    assert set(imported["experts"]) == {"y", "copy"}


def test_plain_output_speaks_to_people(trained, tmp_path):
    model, x, _ = trained
    assert (
        "predicted" in run("route", model, "word105 word105 word75").stdout
        or "fallback" in run("route", model, "word105 word105 word75").stdout
    )
    assert "held-out" in run("experts", model).stdout
    assert "60 documents of 'x' written" in run("index", model, tmp_path / "index", x).stdout
    assert "expert:" in run("search", tmp_path / "index", "word1").stdout


def test_documents_file(trained, tmp_path):
    model, *_ = trained
    (tmp_path / "notes.jsonl").write_text(
        '{"_id": "1", "text": "word1"}\n{"_id": "2", "text": "word2", "year": 2020}\n'
    )
    assert run_json("index", model, tmp_path / "index", tmp_path / "notes.jsonl")["collection"] == "notes"
    assert len(run_json("search", tmp_path / "index", "word1", "--where", "year = 2020")["hits"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "{tmp}/m", "{tmp}/nothing"], "no collection at"),
        (["train", "{tmp}/m", "{x}", "--preset", "best"], "no preset 'best'"),
        (["library", "{tmp}/m", "{x}"], "no model at"),
        (["route", "{tmp}/m", "query"], "no model at"),
        (["search", "{tmp}/i", "query"], "no index at"),
        (["evaluate", "{model}", "{x}", "--split", "exam"], "no split 'exam'"),
        (["experts", "{model}", "remove", "nobody"], "no expert 'nobody'"),
        (["experts", "{model}", "remove"], "experts MODEL remove NAME"),
        (["experts", "{model}", "explode"], "experts MODEL remove NAME"),
        (["train", "{model}", "{x}", "--name", "x"], "already has an expert 'x'"),
        (["train", "{model}", "{x}", "--name", "z", "--base", "other/base"], "has the base"),
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


def test_every_option_is_explained():
    import typer

    group = typer.main.get_command(app)
    assert set(group.commands) == {
        "synthesize",
        "train",
        "library",
        "experts",
        "route",
        "index",
        "search",
        "serve",
        "evaluate",
        "bench",
    }
    for name, command in group.commands.items():
        assert command.help, name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, (name, parameter.name)
        assert "--json" in {option for p in command.params for option in p.opts}


def test_help_and_version_are_quick_and_load_nothing_heavy():
    code = "import sys; from routerretriever.cli import app\ntry: app(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run("--version").stdout)


def test_progress_goes_to_a_terminal_and_nowhere_else(checkpoint, make_collection, tmp_path):
    """With a pipe nothing but the JSON document is printed; on a terminal there is a bar with rate and time."""
    x = make_collection("x", 1)
    command = [
        sys.executable,
        "-m",
        "routerretriever.cli",
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
