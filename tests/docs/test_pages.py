"""What the README says has to be so."""

import re

import pytest
from typer.testing import CliRunner

from routerretriever.cli.app import app


@pytest.fixture(scope="module")
def root(request):
    return request.config.rootpath


@pytest.fixture(scope="module")
def readme(root):
    return (root / "README.md").read_text(encoding="utf-8")


def test_tables_are_the_committed_figures(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import tables

    rows = {"headline": "| scifact |", "systems": "| **routed** |", "serving": "| 128 |"}
    rows |= {
        "words": "| finqa10k |",
        "queries": "| 512 |",
        "documents": "| nl2bash |",
        "experts": "| 64 |",
        "routing": "semantic-router",
    }
    rows |= {"search": "| 100000 |", "throughput": "| 2 workers |", "large": "| documents | 1,000,000 |"}
    rows |= {"kinds": "| ivf_rq |", "settings": "| exact |", "filters": "| 0.01% |", "text": "| hybrid |"}
    rows |= {"changes": "| before refresh |", "kills": "| compact | 50 |"}
    rows |= {
        "cost": "| vectors |",
        "memory": "| the large job |",
        "synthesis": "| scifact |",
        "feedback": "| bankfaq |",
        "library": "| evaluator seconds |",
        "training": "| reached ours |",
        "maps": "| 512 |",
        "engine": "| 64 |",
        "anchored": "| linear-adapter |",
        "lora-and-maps": "| mitre_attack |",
    }
    for page, name, *_ in tables.TABLES:
        text = (root / page).read_text(encoding="utf-8")
        assert tables.renewed(page, text) == text, page
        assert rows[name] in text[text.index(f"<!-- {name}:") : text.index(f"<!-- /{name} -->")]


@pytest.fixture(scope="module")
def commands(root):
    return (root / "docs" / "commands.md").read_text(encoding="utf-8")


def test_every_command_is_documented_and_explains_itself(commands):
    names = [info.name or info.callback.__name__ for info in app.registered_commands]
    names = [name.removesuffix("_command") for name in names] + [
        group.name for group in app.registered_groups
    ]
    assert set(re.findall(r"^\| `routerretriever (\w+)", commands, flags=re.MULTILINE)) == set(names)
    for name in names:
        verb = [name, {"index": "add", "experts": "list"}[name]] if name in ("index", "experts") else [name]
        shown = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0
        assert ("--json" in shown.stdout) == (name != "mcp")  # which speaks a protocol of its own


@pytest.mark.parametrize(("name", "start", "untold"), [("index", "build", "add"), ("experts", "add", "list")])
def test_every_verb_of_a_group_is_documented(root, commands, name, start, untold):
    (group,) = [group for group in app.registered_groups if group.name == name]
    row = next(
        line for line in commands.splitlines() if line.startswith(f"| `routerretriever {name} {start}")
    )
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
    for path, methods in create_app(Settings(model=tmp_path)).openapi()["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path.replace('{name}', 'NAME')}`" in text, (method, path)


def test_the_readme_fits_on_a_few_screens(readme):
    assert len(readme.splitlines()) <= 150


def test_every_folder_of_the_source_has_its_row(root):
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    source = root / "src" / "routerretriever"
    folders = [path.name for path in source.iterdir() if (path / "__init__.py").exists()]
    modules = [path.name for path in source.glob("*.py") if not path.name.startswith("__")]
    for name in [f"{folder}/" for folder in folders] + modules:
        assert re.search(rf"^\| .*`{re.escape(name)}`", text, flags=re.MULTILINE), name


def test_the_citation_is_valid_and_of_this_version(root):
    """Against what the format's version 1.2.0 demands."""
    import yaml

    import routerretriever

    cited = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert (cited["cff-version"], cited["type"], cited["license"]) == ("1.2.0", "software", "Apache-2.0")
    assert cited["version"] == routerretriever.__version__
    paper = cited["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper)
    for author in (*cited["authors"], *paper["authors"]):
        assert set(author) in ({"name"}, {"family-names", "given-names"})
    assert all({"type", "value"} <= set(identifier) for identifier in paper["identifiers"])
