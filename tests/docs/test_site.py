"""The site: everything public is in its reference, every page in its navigation, every link leads somewhere."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import routerretriever

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The gathered pages, and Zensical's site made of them."""
    pytest.importorskip("zensical")
    import make_site

    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    make_site.gather(folder / "build" / "pages")
    program = Path(sys.executable).with_name("zensical")
    done = subprocess.run([program, "build", "--strict"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build"


def test_every_command_and_option_is_in_the_reference(site):
    import make_reference

    text = (site / "pages/reference/cli.md").read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^## routerretriever (.+?)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    )
    listed = dict(make_reference.commands())
    assert {"train", "serve", "index", "index build"} <= set(listed)
    assert set(sections) == set(listed)
    for name, command in listed.items():
        for parameter in command.params:
            if parameter.param_type_name == "option" and "--help" not in parameter.opts:
                row = next(
                    line
                    for line in sections[name].splitlines()
                    if line.startswith(f"| `{parameter.opts[0]}`")
                )
                assert row.split(" | ")[1].strip(), (name, row)


def test_every_public_name_is_in_the_reference(site):
    text = (site / "pages/reference/python.md").read_text(encoding="utf-8")
    for name in routerretriever.__all__:
        section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
        assert section, name
        assert re.search(r"^[A-Z`]\w", section.group(1), flags=re.MULTILINE), name
    for method in ("RouterRetriever.route", "RouterRetriever.encode_query", "Index.search", "Index.compact"):
        assert f"### {method}\n" in text, method


@pytest.mark.parametrize("package", ["synthesis", "feedback"])
def test_every_public_name_of_a_subpackage_is_in_the_reference(package):
    """In a section of this package: others have names like these."""
    import make_reference

    text = make_reference.modules_page()
    sections = re.findall(rf"^## routerretriever\.{package}\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S)
    for name in importlib.import_module(f"routerretriever.{package}").__all__:
        assert any(f"### {name}\n" in part or f"\n`{name}`: see" in part for part in sections), name


def test_no_public_name_is_without_a_docstring():
    import griffe
    import make_reference

    package = griffe.load("routerretriever", search_paths=[str(ROOT / "src")])
    for module in make_reference.MODULES:
        for found in make_reference.public_names(package[module]):
            assert found.has_docstring, found.path
            members = found.members.values() if found.is_class else ()
            inherited = {name for base in found.mro() for name in base.members} if found.is_class else set()
            for member in members:
                if member.is_function and not member.name.startswith("_"):
                    assert member.has_docstring or member.name in inherited or _foreign(found), member.path


def _foreign(found):
    """Whether it has a base of another package, whose docstrings an override fulfils."""
    return len(found.resolved_bases) < len(found.bases)


def test_what_pages_import_is_in_the_reference(site):
    text = (site / "pages/reference/modules.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## routerretriever\.([\w.]+)\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S))
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    code = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    imports = re.findall(
        r"^from routerretriever\.([\w.]+) import (?:\(([^)]+)\)|(.+))", code, flags=re.MULTILINE
    )
    assert imports
    for module, many, few in imports:
        for name in re.findall(r"\w+", many or few):
            assert f"### {name}\n" in sections[module] or f"\n`{name}`: see" in sections[module], (
                module,
                name,
            )


def test_links_and_pictures_lead_somewhere(site):
    pages = list((site / "site").rglob("*.html"))
    assert len(pages) > 25
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8"))) for page in pages}
    for page in pages:
        if page.name == "404.html":
            continue
        body = page.read_text(encoding="utf-8")
        body = body[body.index("<article") : body.index("</article>")]
        for link in re.findall(r'(?:href|src)="([^"]+)"', body):
            if re.match(r"https?:|mailto:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.is_file(), (page.name, link)
            assert not anchor or target not in anchors or anchor in anchors[target], (page.name, link)


def test_nothing_is_fetched_from_another_host(site):
    for page in (site / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(
            r'<(?:script|img|iframe)[^>]+src="https?:|<link[^>]+rel="stylesheet"[^>]+href="http', text
        )


def test_every_page_is_in_the_navigation():
    import make_site

    def entries(level):
        for entry in level:
            for value in entry.values() if isinstance(entry, dict) else [entry]:
                yield from entries(value) if isinstance(value, list) else [value]

    listed = set(entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    pages = {page for page in make_site.sources().values() if page.endswith(".md")} - {
        "results/speed.md",
        "results/scale.md",
    }
    assert pages <= listed
    assert {page for page in listed - pages if not page.startswith(("reference/", "results/"))} == set()
