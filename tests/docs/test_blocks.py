"""Every code block of README and of the pages runs, with a tiny encoder in the place of all-MiniLM-L6-v2."""

import dataclasses
import re
import shutil
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import typer
from tiny import make_checkpoint

from routerretriever import Collection, Index, RouterRetriever, TrainingConfig, train_expert
from routerretriever.cli.app import app
from routerretriever.data.document import Document
from routerretriever.encoder import base_models
from routerretriever.errors import NoGainError
from routerretriever.experts.harm_report import HarmReport

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "demo"))
import make_collections  # noqa: E402
from doc_blocks import REASONS, SHOWN, Session, blocks, commands  # noqa: E402
from hub_server import hub, use  # noqa: E402

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
FRESH = ("README.md", "docs/tutorial.md", "docs/labelled.md")
"""Pages that make their own model; the others find ``my-router`` and ``my-index``."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """``fresh``: the demo's collections and some documents; ``ready``: also a model with two experts, and an index."""
    root = tmp_path_factory.mktemp("pages")
    folders = make_collections.write_all(root / "fresh" / "demo-output" / "collections")
    collections = {name: Collection.load(folder) for name, folder in folders.items()}
    shutil.copy(folders["garden"] / "corpus.jsonl", root / "fresh" / "my-documents.jsonl")
    texts = [text for c in collections.values() for text in (*c.contents, *c.split("test").queries.values())]
    words = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text.lower()))
    tiny = make_checkpoint(root / "tiny", words=tuple(words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROUTERRETRIEVER_CACHE", str(root / "cache"))
        patch.setattr(base_models, "_packaged_minilm", lambda: tiny)  # experts must fit those of a page
        model = RouterRetriever.create("all-MiniLM-L6-v2", device="cpu")
        for name in ("ops", "notam"):
            train_expert(model, collections[name], config=TrainingConfig(epochs=1), force=True)
        model.build_library([collections["ops"], collections["notam"]])
        shutil.copytree(root / "fresh", root / "ready")
        model.save_pretrained(root / "ready" / "my-router")
        index = Index.create(root / "ready" / "my-index", model, model_path=root / "ready" / "my-router")
        documents = [
            Document(d.id, d.text, metadata={"year": 2025}) for d in collections["ops"].documents[:50]
        ]
        index.upsert(documents, collection="ops")
    return root


@pytest.fixture
def session(prepared, tmp_path, monkeypatch):
    """A page's folder, in which training is short and a server goes on beside the page."""
    import routerretriever.server
    from routerretriever.experts import train as training

    original = training.train_expert

    def quick(*arguments, config=None, **options):
        short = dataclasses.replace(config or TrainingConfig(), epochs=1, evaluations=1)
        try:
            return original(*arguments, config=short, **options)
        except NoGainError:  # so tiny an encoder need not learn
            return original(*arguments, config=short, **options | {"force": True})

    monkeypatch.setattr(training, "train_expert", quick)
    monkeypatch.setattr(HarmReport, "harmed", ())  # such experts gain and cost at random
    monkeypatch.setattr(base_models, "_packaged_minilm", lambda: prepared / "tiny")
    monkeypatch.setenv("ROUTERRETRIEVER_CACHE", str(prepared / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ExitStack() as stack:

        def start(kind, *, on_hub=False):
            shutil.copytree(prepared / kind, tmp_path / "page")
            monkeypatch.chdir(tmp_path / "page")
            opened = Session(tmp_path / "page", stack)
            monkeypatch.setattr(routerretriever.server, "serve", opened.serve)
            if on_hub:
                use(stack.enter_context(hub(tmp_path / "hub")), tmp_path / "downloads", monkeypatch)
            return opened

        yield start


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if any(b.runs for b in blocks(text))])
@pytest.mark.filterwarnings("ignore:.*get_sentence_embedding_dimension:FutureWarning")  # MTEB calls it
@pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"
)  # the hub's client, of its own transport
def test_the_code_of_a_page_runs(page, session):
    opened = session("fresh" if page in FRESH else "ready", on_hub=page == "docs/hub.md")
    for block in blocks(PAGES[page]):
        if block.runs:
            opened.run(block, page)


def test_what_does_not_run_says_why():
    found = {page: blocks(text) for page, text in PAGES.items()}
    for page, text in PAGES.items():
        assert len(re.findall(r"^ *```", text, flags=re.MULTILINE)) == 2 * len(found[page]), page
        marks = re.findall(r"^<!-- not run", text, flags=re.MULTILINE)
        assert len(marks) == sum(bool(block.reason) for block in found[page]), page
    every = [block for page in found.values() for block in page]
    assert {block.language for block in every} <= {"python", "sh", "bash"} | SHOWN
    reasons = Counter(block.reason for block in every if block.reason)
    assert set(reasons) <= REASONS
    assert reasons["installs packages"] <= len([b for b in every if "pip install" in b.code])
    assert sum(reasons.values()) - reasons["installs packages"] < sum(block.runs for block in every)


def test_every_command_in_a_page_exists_with_its_options():
    """Also in blocks that do not run, and in running text."""
    top = typer.main.get_command(app).commands
    for page, text in PAGES.items():
        shown = [
            command
            for block in blocks(text)
            if block.language not in SHOWN
            for command in commands(block.code)
        ]
        shown += re.findall(
            r"`(routerretriever [^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        )
        for line in shown:
            words = line.replace("\\|", " ").split()
            if words[0] != "routerretriever" or words[1][0] in "-…":
                continue
            command = top[words[1]]
            if hasattr(command, "commands"):
                command = command.commands.get(
                    words[2] if len(words) > 2 else "add", command.commands.get("add")
                )
            known = {"--help"}.union(*(p.opts + p.secondary_opts for p in command.params))
            used = {word.split("=")[0] for word in re.findall(r"(?<!\S)--[a-z][\w-]*", line)}
            assert used <= known, (page, line)


def test_every_integration_has_a_page():
    modules = {path.stem for path in (ROOT / "src/routerretriever/integrations").glob("*.py")} - {
        "__init__",
        "shared",
        "haystack_filters",
    }
    for module in modules:
        imported = f"from routerretriever.integrations.{module} import"
        assert any(imported in text for page, text in PAGES.items() if "/integrations/" in page), module
    for page in PAGES:
        assert "/integrations/" not in page or f"]({page})" in PAGES["README.md"]
