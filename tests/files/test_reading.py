"""Files of every kind become documents; what cannot be read is named with its reason."""

import os
import time

import pytest
from office_files import MAIL, bomb, encrypted_pdf, laughs, pdf, slides, word

from routerretriever.data.names import FILE_SUFFIXES
from routerretriever.errors import CollectionError
from routerretriever.files.cache import ContentCache
from routerretriever.files.formats import READERS
from routerretriever.files.reading import read_files
from routerretriever.files.scan import scan


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "folder"
    made.mkdir()
    return made


@pytest.fixture
def read(folder, tmp_path):
    def run(files=(), **options):
        for name, content in dict(files).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        cache = ContentCache(tmp_path / "cache")
        try:
            content = read_files(scan(folder, options.pop("ignore", ())), cache=cache, **options)
        finally:
            cache.close()
        return {document.id: document for document in content.documents}, content

    return run


def headings(document):
    return [(s.heading, s.level, s.page) for s in document.sections]


def test_every_suffix_has_a_reader():
    assert set(READERS) == set(FILE_SUFFIXES)


def test_each_format_gives_text_title_and_sections(read):
    found, content = read(
        {
            "a.md": "intro\n\n# Guide *now*\n\nText.\n\n```\n# no heading\n```\n\nSmall\n-----\n\nmore",
            "deep/b.html": "<title>Page</title><body><nav>menu</nav><h1>Big <i>one</i></h1><p>Hello "
            "<b>world</b><script>alert('x')</script></p><h2>Next</h2>tail</body>",
            "c.pdf": pdf("first page", "second page", title="Report"),
            "d.docx": word(
                ("Title", "The plan"), ("Normal", "Hi."), ("Heading 2", "Costs"), ("table", [["a", "1"]])
            ),
            "e.pptx": slides(("Start", "Hello all"), ("End", "Bye")),
            "f.csv": "name;age\nAnn;7\nBob;\n",
            "g.eml": MAIL,
            "h.txt": "caf\xe9".encode("cp1252"),
            "i.TXT": "wide".encode("utf-16"),
        }
    )
    assert content.unread == {}
    assert found["a.md"].title == "Guide now"
    assert headings(found["a.md"]) == [("Guide now", 1, None), ("Small", 2, None)]
    assert found["a.md"].text[found["a.md"].sections[1].start :].startswith("Small\n-----")
    assert found["deep/b.html"].text == "Big one\n\nHello world\n\nNext\n\ntail"
    assert (found["deep/b.html"].title, headings(found["deep/b.html"])) == (
        "Page",
        [("Big one", 1, None), ("Next", 2, None)],
    )
    assert found["c.pdf"].text == "first page\n\nsecond page"
    assert (found["c.pdf"].title, headings(found["c.pdf"])) == ("Report", [("", 1, 1), ("", 1, 2)])
    assert found["d.docx"].text == "The plan\n\nHi.\n\nCosts\n\na | 1"
    assert headings(found["d.docx"]) == [("The plan", 1, None), ("Costs", 2, None)]
    assert found["e.pptx"].text == "Start\n\nHello all\n\nEnd\n\nBye"
    assert ("End", 1, 2) in headings(found["e.pptx"])
    assert found["f.csv"].text == "name: Ann; age: 7\n\nname: Bob"
    assert found["g.eml"].title == "The Büro moves"
    assert "We move on Monday." in found["g.eml"].text
    assert "alert" not in found["g.eml"].text + found["deep/b.html"].text
    assert found["h.txt"].text == "café"
    assert found["i.TXT"].text == "wide"
    assert found["c.pdf"].metadata["path"] == "c.pdf"
    assert found["c.pdf"].metadata["type"] == "pdf"


def test_what_cannot_be_read_is_named_and_stops_nothing(read, folder):
    os.mkfifo(folder / "pipe.txt")
    (folder / "loop").symlink_to(folder)
    (folder / "out.txt").symlink_to("/etc/hostname")
    with (folder / "huge.txt").open("wb") as file:
        file.truncate(500 << 20)
    found, content = read(
        {
            "secret.pdf": encrypted_pdf("hidden"),
            "old.docx": b"\xd0\xcf\x11\xe0" + b"x" * 100,
            "empty.md": "",
            "blank.txt": "  \n ",
            "cut.pdf": pdf("text")[:300],
            "cut.docx": word(("Normal", "x"))[:500],
            "image.pdf": b"\x89PNG....",
            "page.docx": "<html>",
            "binary.txt": b"\0\1\2" * 100,
            "bomb.docx": bomb(300 << 20),
            "laughs.docx": laughs(),
            "no.eml": "just text",
            "good.txt": "all is well",
        }
    )
    reasons = {
        "secret.pdf": "encrypted",
        "old.docx": "encrypted, or of a format before 2007",
        "empty.md": "is empty",
        "blank.txt": "no text",
        "cut.pdf": "damaged or truncated",
        "cut.docx": "damaged or truncated",
        "image.pdf": "not a PDF",
        "page.docx": "not an Office file",
        "binary.txt": "not text",
        "bomb.docx": "over the limit of 256 MiB",
        "no.eml": "not an e-mail",
        "huge.txt": "500 MiB, over the limit",
        "pipe.txt": "no plain file",
        "loop": "a link",
        "out.txt": "a link",
    }
    wrong = {
        name: content.unread.get(name)
        for name, reason in reasons.items()
        if reason not in content.unread.get(name, "")
    }
    assert wrong == {}
    # Entities are refused or left as they are, and never expanded.
    assert "laughs.docx" in content.unread or len(found["laughs.docx"].text) < 1000
    assert found["good.txt"].text == "all is well"


def test_a_file_that_takes_too_long_is_ended_and_the_next_is_read(read, monkeypatch):
    monkeypatch.setitem(READERS, ".rst", "plain:read_text")
    deep = "<div>" * 3_000_000 + "x"
    start = time.perf_counter()
    found, content = read({"a.html": deep, "b.txt": "next", "c.txt": "after"}, seconds=3.0)
    assert set(found) >= {"b.txt", "c.txt"}
    assert time.perf_counter() - start < 30
    assert "a.html" in found or "a.html" in content.unread


def test_memory_is_bounded(read):
    lines = b"a,b\n" + b"x" * 1000 + b"\n"
    found, content = read({"big.csv": lines + b'"' + b"y" * (190 << 20), "small.txt": "here"}, seconds=30.0)
    assert "small.txt" in found
    assert "big.csv" in content.unread


def test_patterns_hidden_files_and_other_kinds(read):
    found, content = read(
        {
            ".routerretrieverignore": "drafts/\n*.tmp.md\n",
            ".hidden.md": "x",
            ".git/notes.md": "x",
            "drafts/a.md": "x",
            "b.tmp.md": "x",
            "logs/c.txt": "x",
            "keep.md": "# Keep",
            "picture.png": b"x",
            "Makefile": "x",
        },
        ignore=["logs"],
    )
    assert set(found) == {"keep.md"}
    assert (content.unread, content.other) == ({}, {".png": 1, "none": 1})


def test_a_name_that_is_no_text_is_reported(read, folder):
    path = os.fsencode(folder) + b"/\xff.txt"
    os.close(os.open(path, os.O_CREAT))
    assert read()[1].unread == {"\\udcff.txt": "its name is not in UTF-8. Rename it."}


def test_what_did_not_change_is_not_read_again(read, folder, monkeypatch):
    first, _ = read({"a.md": "# One", "b.pdf": pdf("text")})
    monkeypatch.setattr(
        "routerretriever.files.reading._Child.read", lambda self, file: {"problem": file.name}
    )
    again, content = read({"a.md": "# Two"})
    assert again["b.pdf"] == first["b.pdf"]
    assert content.unread == {"a.md": "a.md"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_without_rights(read, folder):
    (folder / "closed").mkdir(mode=0)
    assert "cannot be listed" in read({"a.md": "x"})[1].unread["closed/"]
    folder.chmod(0)
    with pytest.raises(CollectionError, match="cannot be listed"):
        scan(folder)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CollectionError, match="cannot be listed"):
        scan(tmp_path / "nothing")
