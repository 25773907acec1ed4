"""Uploading files, listing what was indexed, and serving the files of a folder."""

import shutil
from dataclasses import replace

import pytest
from office_files import word
from serving import ADMIN_KEY, running, wait_until_ready, with_keys

from routerretriever import Index, RouterRetriever
from routerretriever.server import Limits
from routerretriever.server.served_files import ServedFiles
from routerretriever.server.uploads import document_id

LONG = "# One\n\n" + "word1 word2 word3. " * 60 + "\n\n## Two\n\n" + "word4 word5 zap. " * 60


def write_folder(root):
    """Write files as `up` indexes them, and one outside."""
    handbook = root / "handbook"
    (handbook / "teams").mkdir(parents=True)
    (handbook / "leave.md").write_text("# Leave\n\nword1 word2\n", encoding="utf-8")
    (handbook / "teams" / "travel.html").write_text("<script>alert(1)</script><p>word3", encoding="utf-8")
    (handbook / "plan.docx").write_bytes(word(("Normal", "word5 word6")))
    (root / "secret.md").write_text("outside", encoding="utf-8")
    return handbook


@pytest.fixture(scope="module")
def served(built, tmp_path_factory):
    """A server of a folder, whose index holds its files, with an admin key and open reading."""
    root = tmp_path_factory.mktemp("files")
    folder, settings = write_folder(root), with_keys(built, root)
    model = RouterRetriever.from_pretrained(settings.model, device="cpu")
    Index.open(settings.index, model).add(folder)
    (folder / "later.md").write_text("not indexed yet", encoding="utf-8")
    (folder / ".hidden.md").write_text("hidden", encoding="utf-8")
    (folder / "link.md").symlink_to(root / "secret.md")
    limits = Limits(files=4, file_bytes=200_000, upload_bytes=400_000)
    with running(replace(settings, api_keys=(), files=folder, limits=limits)) as client:
        yield wait_until_ready(client)


ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


def upload(client, *files, headers=ADMIN, **form):
    return client.post("/v1/files", files=[("files", file) for file in files], data=form, headers=headers)


def test_files_are_indexed_and_those_that_cannot_be_read_say_why(served):
    answer = upload(
        served,
        ("notes/long.md", LONG.encode()),
        ("broken.pdf", b"%PDF-1.4 nothing follows"),
        ("picture.png", b"\x89PNG"),
        ("plan.docx", word(("Normal", "word7 word8"))),
    )
    assert answer.status_code == 200, answer.text
    first, broken, picture, plan = answer.json()["files"]
    assert (first["name"], first["indexed"], first["problem"]) == ("notes/long.md", True, None)
    assert plan["indexed"]
    assert not broken["indexed"] and "damaged" in broken["problem"]
    assert "nothing here reads files of .png" in picture["problem"]

    (hit,) = served.post("/v1/search", json={"query": "zap", "k": 1}).json()["results"][0]["hits"]
    assert (hit["collection"], hit["id"], hit["title"]) == ("uploads", "notes/long.md", "One")
    assert hit["passage"]["heading"].endswith("Two")
    listed = served.get("/v1/files").json()
    assert [entry["id"] for entry in listed["newest"]][:2] == ["plan.docx", "notes/long.md"]
    assert {"name": "uploads", "documents": 2} in listed["collections"]
    assert listed["passages"] > listed["documents"] == answer.json()["documents"]


def test_a_file_of_the_same_name_replaces_the_one_before(served):
    before = served.get("/v1/files").json()["documents"]
    for text in (b"word1", b"word2"):
        assert upload(served, ("a.txt", text), collection="mine").json()["documents"] == before + 1
    twice = upload(served, ("b.txt", b"word1"), ("b.txt", b"word2")).json()["files"]
    assert [entry["indexed"] for entry in twice] == [True, False]
    assert "same name" in twice[1]["problem"]
    deleted = served.request(
        "DELETE", "/v1/documents", json={"ids": ["a.txt"], "collection": "mine"}, headers=ADMIN
    )
    assert deleted.json()["deleted"] == 1


def test_limits_on_number_and_size(served):
    many = upload(served, *[(f"{n}.txt", b"word1") for n in range(5)])
    assert (many.status_code, many.json()["error"]["param"]) == (413, "files")
    large = upload(served, ("large.txt", b"word1 " * 40_000), ("small.txt", b"word1")).json()["files"]
    assert [entry["indexed"] for entry in large] == [False, True]
    assert "over the limit" in large[0]["problem"]
    assert upload(served, ("huge.txt", b"x" * 500_000)).status_code == 413
    empty = upload(served, ("empty.txt", b"")).json()["files"][0]
    assert empty["problem"] == "it is empty."


def test_uploading_needs_a_key_that_may_write(served, client):
    assert upload(served, ("a.txt", b"word1"), headers={}).status_code == 401
    off = upload(client, ("a.txt", b"word1"), headers={})
    assert (off.status_code, off.json()["error"]["code"]) == (403, "no_admin")
    assert not client.get("/v1/files").json()["writable"]
    assert served.get("/v1/files", headers=ADMIN).json()["writable"]


def test_a_served_folder_is_not_written_by_uploads_and_the_form_has_no_other_fields(served):
    before = served.get("/v1/files").json()["documents"]
    refused = upload(served, ("leave.md", b"word1"), collection="handbook")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "served_folder")
    misspelt = upload(served, ("leave.md", b"word1"), colection="handbook")
    assert (misspelt.status_code, misspelt.json()["error"]["param"]) == (422, "colection")
    assert served.get("/v1/files").json()["documents"] == before


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd.txt", "etc/passwd.txt"),
        ("C:\\temp\\a.md", "C:/temp/a.md"),
        ("/a/./b.md", "a/b.md"),
        ("a\x00\r\n.md", "a.md"),
        ("..", ""),
    ],
)
def test_names_lead_nowhere(given, kept):
    assert document_id(given) == kept


def test_what_was_indexed_is_listed_newest_first_and_in_parts(served):
    everything = served.get("/v1/files", params={"limit": 200}).json()
    assert len(everything["newest"]) == everything["documents"]
    assert everything["files_of"] == "handbook"
    parts = []
    for offset in range(0, everything["documents"], 50):
        parts += served.get("/v1/files", params={"offset": offset, "limit": 50}).json()["newest"]
    assert parts == everything["newest"]
    assert {entry["id"] for entry in everything["newest"] if entry["collection"] == "handbook"} == {
        "leave.md",
        "teams/travel.html",
        "plan.docx",
    }
    assert served.get("/v1/files", params={"limit": 201}).status_code == 422


def test_indexed_files_are_shown_as_text_or_downloaded(served):
    page = served.get("/files/teams/travel.html")
    assert page.text == "<script>alert(1)</script><p>word3"
    assert page.headers["content-type"] == "text/plain; charset=utf-8"
    assert page.headers["content-disposition"].startswith("inline")
    plan = served.get("/files/plan.docx")
    assert plan.headers["content-type"] == "application/octet-stream"
    assert plan.headers["content-disposition"].startswith("attachment")
    asked = served.head("/files/plan.docx")
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-length"] == plan.headers["content-length"]
    for answer in (page, plan):
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name",
    [
        "later.md",
        ".hidden.md",
        "link.md",
        "../secret.md",
        "%2e%2e/secret.md",
        "..%2fsecret.md",
        "teams/..%2f..%2fsecret.md",
        "%2fetc%2fpasswd",
        "teams",
        "leave.md%00",
        "",
    ],
)
def test_nothing_else_is_served(served, name):
    assert served.get(f"/files/{name}").status_code == 404


def test_a_file_that_became_a_link_is_not_followed(tmp_path):
    folder = write_folder(tmp_path)
    files = ServedFiles(folder)
    assert files.find("leave.md").is_text
    assert not files.find("plan.docx").is_text
    (folder / "leave.md").unlink()
    (folder / "leave.md").symlink_to(tmp_path / "secret.md")
    shutil.rmtree(folder / "teams")
    (folder / "teams").symlink_to(tmp_path)
    for name in (
        "leave.md",
        "teams/secret.md",
        "../secret.md",
        "plan.docx\0",
        ".hidden.md",
        "",
        "/etc/passwd",
    ):
        assert files.find(name) is None


def test_without_a_folder_there_are_no_files(client):
    assert client.get("/v1/files").json()["files_of"] is None
    assert client.get("/files/leave.md").status_code == 404
