"""One command from a folder of files to a page that answers."""

import os
import signal
import subprocess
import sys
import time

import httpx
import lance
import pytest
from bases import save_static
from commands import run, run_json
from office_files import pdf, word

import routerretriever.server
from routerretriever import open_model
from routerretriever.engine.compiled_model import CompiledModel


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTERRETRIEVER_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "notes"
    (made / "sub").mkdir(parents=True)
    (made / "a.md").write_text("# One\n\nword1 word2")
    (made / "sub" / "b.pdf").write_bytes(pdf("word3 zap"))
    (made / "c.docx").write_bytes(word(("Heading 1", "Costs"), ("Normal", "word7 tide")))
    (made / "broken.pdf").write_bytes(b"%PDF-1.4")
    return made


def found(folder, query):
    answer = run_json("search", folder / ".routerretriever" / "index", query, "--mode", "text")
    return [hit["id"] for hit in answer["hits"]]


def test_it_makes_everything_and_takes_up_what_changed(folder, checkpoint):
    first = run_json("up", folder, "--base", checkpoint, "--no-serve")
    assert (first["documents"], first["encoded"], first["total"]) == (3, 3, 3)
    assert [problem["where"] for problem in first["problems"]] == ["broken.pdf"]
    assert found(folder, "zap") == ["sub/b.pdf"]

    (folder / "a.md").write_text("# One\n\ncord")
    (folder / "c.docx").unlink()
    (folder / "new.txt").write_text("lamp")
    again = run_json("up", folder, "--no-serve")
    assert (again["encoded"], again["gone"], again["total"]) == (2, 1, 3)
    assert [found(folder, word) for word in ("cord", "lamp", "tide")] == [["a.md"], ["new.txt"], []]
    assert "Search: routerretriever search" in run("up", folder, "--no-serve").output


def test_the_first_run_compiles_the_model(folder, checkpoint):
    run("up", folder, "--base", checkpoint, "--no-serve")
    model = folder / ".routerretriever" / "model"
    assert isinstance(open_model(model), CompiledModel)
    written = (model / "engine" / "engine.json").stat().st_mtime_ns
    run("up", folder, "--no-serve")
    assert (model / "engine" / "engine.json").stat().st_mtime_ns == written


def test_a_base_that_cannot_be_compiled_is_served_by_torch(folder, tmp_path):
    save_static(tmp_path / "static")
    output = " ".join(run("up", folder, "--base", tmp_path / "static", "--no-serve").output.split())
    assert "Queries are answered by torch, which starts more slowly. The base has no layers" in output
    assert found(folder, "zap") == ["sub/b.pdf"]


def test_an_empty_folder_is_an_empty_index(tmp_path, checkpoint):
    (tmp_path / "empty").mkdir()
    assert run_json("up", tmp_path / "empty", "--base", checkpoint, "--no-serve")["total"] == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="everything can be listed by root")
def test_nothing_is_removed_while_a_folder_cannot_be_listed(folder, checkpoint):
    run("up", folder, "--base", checkpoint, "--no-serve")
    (folder / "sub").chmod(0)
    try:
        output = run("up", folder, "--no-serve").output
    finally:
        (folder / "sub").chmod(0o700)
    assert "Nothing was removed, since a folder cannot be listed." in output


def test_a_folder_that_is_not_there(tmp_path):
    result = run("up", tmp_path / "nothing", "--no-serve", code=1)
    assert "cannot be listed" in result.output
    assert not (tmp_path / "nothing").exists()


def test_it_serves_what_it_made(folder, checkpoint, monkeypatch):
    served = []
    monkeypatch.setattr(routerretriever.server, "serve", served.append)
    output = run("up", folder, "--base", checkpoint, "--port", "8123").output
    assert "The page: http://127.0.0.1:8123" in output
    assert served[0].index == str(folder / ".routerretriever" / "index")
    assert served[0].files == folder

    # A key for writing, which stays and which nobody else can read.
    (key,) = served[0].admin_keys
    assert f"http://127.0.0.1:8123/#key={key}" in output
    assert (folder / ".routerretriever" / "key").stat().st_mode & 0o777 == 0o600
    run("up", folder, "--port", "8123")
    assert served[1].admin_keys == (key,)


def state(folder):
    table = lance.dataset(f"{folder}/.routerretriever/index/documents.lance").to_table()
    return sorted(str(row) for row in table.to_pylist())


@pytest.mark.slow
def test_killed_at_any_moment_the_next_run_ends_as_an_undisturbed_one(folder, checkpoint, tmp_path):
    for number in range(20):
        (folder / f"more{number}.md").write_text(f"# More {number}\n\nword{number}")

    def command(kept, *more):
        line = [sys.executable, "-m", "routerretriever", "up", str(folder), "--base", str(checkpoint), *more]
        environment = {**os.environ, "ROUTERRETRIEVER_CACHE": str(tmp_path / kept / "cache")}
        return subprocess.Popen(
            [*line, "--state", str(tmp_path / kept / ".routerretriever")],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    start = time.monotonic()
    whole = command("whole", "--no-serve")
    assert whole.wait(300) == 0, whole.stderr.read()
    took = time.monotonic() - start
    started = [whole]
    for share in (0.6, 0.8, 0.95):
        process = command("killed", "--no-serve")
        started.append(process)
        time.sleep(share * took)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    started.append(command("killed", "--port", "8199"))  # the last serves what it made
    try:
        deadline = time.monotonic() + 10 * took + 60
        hits = []
        while not hits and time.monotonic() < deadline:
            time.sleep(0.5)
            try:
                answer = httpx.post("http://127.0.0.1:8199/v1/search", json={"query": "zap", "mode": "text"})
                hits = answer.json()["results"][0]["hits"] if answer.status_code == 200 else []
            except httpx.TransportError:
                continue
        assert [hit["id"] for hit in hits] == ["sub/b.pdf"]
    finally:
        os.killpg(started[-1].pid, signal.SIGTERM)
        for process in started:
            process.wait(60)
            process.stderr.close()
    assert state(tmp_path / "killed") == state(tmp_path / "whole")
