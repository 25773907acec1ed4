"""The command `synthesize`."""

import json
import re
from collections import Counter

import pytest
from typer.testing import CliRunner

from routerretriever import Collection, RouterRetriever
from routerretriever.cli.app import app
from routerretriever.routing.self_check import routing_quality
from routerretriever.sharing.model_card import model_card


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return result


def test_the_command(checkpoint, bare, tmp_path):
    out = tmp_path / "made"
    shown = run("synthesize", bare, "--out", out, "--with", "titles", "--base", checkpoint, "-k", "5")
    assert "passage not among the first 5" in re.sub(r"\s+", " ", shown.stdout)
    assert "Next: routerretriever train MODEL" in shown.stdout
    told = json.loads(
        run(
            "synthesize",
            bare,
            "--out",
            out,
            "--with",
            "titles",
            "--base",
            checkpoint,
            "-k",
            "5",
            "--force",
            "--json",
        ).stdout
    )
    assert told["kept"] == told["train"] + told["held_out"]
    assert Counter(told["dropped"])["passage not among the first 5"] > 0
    model = tmp_path / "model"
    run("train", model, out, "--base", checkpoint, "--epochs", "1", "--rank", "4", "--force")
    listed = json.loads(run("experts", model, "--json").stdout)
    assert listed["experts"]["made"]["generated"] == {"titles": told["train"]}
    again = run(
        "synthesize",
        bare,
        "--out",
        tmp_path / "b",
        "--retriever",
        model,
        "--expert",
        "made",
        "-k",
        "40",
        "--json",
    )
    assert json.loads(again.stdout)["settings"]["expert"] == "made"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--with", "llm"], "--endpoint URL --model NAME"),
        (["--with", "llm", "--endpoint", "http://x/v1", "--model", "m", "--max-cost", "1"], "needs prices"),
        (["--with", "llm", "--endpoint", "http://x/v1", "--model", "m", "--body", "{"], "--body is not JSON"),
        (
            ["--with", "llm", "--endpoint", "http://x/v1", "--model", "m", "--body", "[]"],
            "--body is a JSON object",
        ),
        (["--with", "llm", "--endpoint", "ftp://x", "--model", "m"], "is not an endpoint"),
        (["--with", "doc2query", "--finish"], "nothing to finish"),
    ],
)
def test_the_command_refuses_in_one_sentence(checkpoint, bare, tmp_path, arguments, message):
    result = run("synthesize", bare, "--out", tmp_path / "o", "--base", checkpoint, *arguments, code=1)
    assert message in re.sub(r"\s+", " ", result.stderr)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--endpoint", "http://x/v1"], "--endpoint belongs to --with llm, not to --with mixture."),
        (
            ["--with", "crops", "--model", "m"],
            "--model belongs to --with doc2query or llm, not to --with crops.",
        ),
        (["--with", "titles", "--finish"], "--finish belongs to --with doc2query or llm"),
        (
            ["--with", "llm", "--batch-size", "16"],
            "--batch-size belongs to --with doc2query, not to --with llm.",
        ),
        (
            ["--with", "doc2query", "--prompt", "p", "--max-cost", "0"],
            "--prompt, --max-cost belong to --with llm,",
        ),
        (["--retriever", "m", "--base", "all-MiniLM-L6-v2"], "--retriever takes the place of --base"),
        (["--expert", "made"], "--expert names an expert of --retriever"),
        (["--with", "guess"], "'guess' is not one of 'crops', 'titles', 'mixture', 'doc2query', 'llm'."),
        (["--with", "guess", "--endpoint", "http://x/v1"], "'guess' is not one of"),
    ],
)
def test_options_of_another_method_are_a_usage_error(bare, tmp_path, arguments, message):
    result = run("synthesize", bare, "--out", tmp_path / "o", *arguments, code=2)
    assert message in re.sub(r"[\s│]+", " ", result.stderr)
    assert not (tmp_path / "o").exists()


def test_gains_on_generated_queries_are_marked_wherever_they_are_shown(
    checkpoint, bare, make_collection, tmp_path
):
    """By train, the list of experts, the library, the card, the log and the comparison; those on real queries are not."""
    model, made, real = tmp_path / "model", tmp_path / "made", make_collection("real")
    run("synthesize", bare, "--out", made, "--with", "titles", "--base", checkpoint, "-k", "40")
    few = ["--base", checkpoint, "--epochs", "1", "--rank", "4", "--force"]
    trained = run("train", model, made, *few)
    assert re.search(r"\d+ generated queries, ", trained.stdout)
    assert "measured on generated queries" in trained.stderr
    told = run("train", model, real, *few)
    assert "generated queries" not in told.stdout + told.stderr
    listed = run("experts", model).stdout
    assert listed.count("(queries") == listed.count("(generated)") == 1  # of two experts
    shown = run("library", model, made, real).stdout
    assert "made (generated)" in shown and "real (generated)" not in shown
    card = (model / "README.md").read_text()
    assert card.count("| made (generated) |") == 1 and "| real |" in card
    loaded = RouterRetriever.from_pretrained(model, device="cpu")
    parts, longest = loaded.encoder.parts(), loaded.encoder.max_seq_length
    card = model_card(parts, longest, quality=routing_quality(loaded.state.policy))  # as when it is pushed
    assert card.count("| made (generated) |") == 2 and "real (generated)" not in card
    assert "(generated): measured on generated queries" in card
    assert loaded.library.generated == {"made": "bare"}
    logged = run("experts", "log", model).stdout
    assert logged.count("measured on made (generated): ") == 1 and "measured on real: " in logged
    assert re.search(r"added made \(held-out gain [^()]+\(generated\)\)", logged)
    assert re.search(r"added real \(held-out gain [^()]+\)", logged)
    compared = run("experts", "diff", model, "made", "real").stdout
    assert "gain on made (generated)" in compared and "gain on real " in compared
    rebuilt = loaded.build_library([Collection.load(real, name="made")])  # real ones in their place
    assert rebuilt.generated == {}
