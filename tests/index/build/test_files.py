"""A folder of files in an index: which door it comes through, runs again, and kills."""

import json
import os
import signal
import subprocess
import sys
import time

import lance
import pytest
from office_files import pdf, slides, word

from routerretriever import Index, RouterRetriever
from routerretriever.errors import CollectionError
from routerretriever.index.build.settings import BuildSettings
from routerretriever.index.build.sources import holds_files

FILLER = " ".join(f"word{n % 40}" for n in range(60))
PRUNE = BuildSettings(prune=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROUTERRETRIEVER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "notes"
    (made / "sub").mkdir(parents=True)
    (made / "guide.md").write_text(f"# Guide\n\nword1\n\n## Deep\n\n{FILLER}. {FILLER}. zap zap.\n")
    (made / "sub" / "paper.pdf").write_bytes(pdf("word5 word6", f"{FILLER}", "lamp lamp"))
    (made / "plan.docx").write_bytes(word(("Heading 1", "Costs"), ("Normal", "word7 tide")))
    (made / "talk.pptx").write_bytes(slides(("Start", "word8")))
    (made / "broken.pdf").write_bytes(b"%PDF-1.4 and nothing")
    (made / "photo.png").write_bytes(b"x")
    return made


def test_a_folder_of_files_is_searched_by_passages_with_their_places(index, folder):
    report = index.add(folder)
    assert (report.collection, report.documents, len(index)) == ("notes", 4, 4)
    assert report.other_files == {".png": 1}
    assert [(problem.where, "damaged" in problem.reason) for problem in report.problems] == [
        ("broken.pdf", True)
    ]

    zap = index.search("zap", k=1, mode="text")[0]
    assert (zap.id, zap.passage.heading) == ("guide.md", "Guide › Deep")
    lamp = index.search("lamp", k=1, mode="text", where={"type": "pdf"})[0]
    assert (lamp.id, lamp.passage.page, lamp.title) == ("sub/paper.pdf", 3, "paper")
    assert index.search("tide", k=1, mode="text", where={"path": "plan.docx"})[0].text.endswith("word7 tide")
    assert lamp.metadata["modified"].endswith("Z")


def test_a_run_again_takes_up_what_changed(index, folder):
    index.add(folder)
    assert index.add(folder).encoded == 0
    (folder / "talk.pptx").write_bytes(slides(("Start", "cord")))
    (folder / "new.txt").write_text("word9")
    (folder / "plan.docx").unlink()
    report = index.add(folder)
    assert (report.encoded, report.replaced, report.gone, len(index)) == (2, 1, 1, 5)
    assert index.search("cord", k=1, mode="text")[0].id == "talk.pptx"
    assert (index.add(folder, settings=PRUNE).gone, len(index)) == (1, 4)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_nothing_is_pruned_below_a_folder_that_cannot_be_listed(index, folder):
    index.add(folder)
    (folder / "sub").chmod(0)
    with pytest.raises(CollectionError, match="'sub/' cannot be listed"):
        index.add(folder, settings=PRUNE)


def made(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"_id": "a", "text": "b"}\n')
    return folder


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["corpus.jsonl", "queries.jsonl", "notes.md"], False),
        (["part-0.jsonl", "README.md", "LICENSE.txt"], False),
        (["a.md", "deep/b.html"], True),
        (["README.md"], True),
        (["a.md", ".hidden.jsonl", "_meta/x.jsonl"], True),
        (["picture.png"], False),
        ([], False),
    ],
)
def test_doors(tmp_path, names, expected):
    assert holds_files(made(tmp_path, *names), BuildSettings()) is expected


def test_shards_beside_files_are_refused_until_somebody_says_which(tmp_path, index):
    folder = made(tmp_path / "both", "part.jsonl", "notes.md")
    with pytest.raises(
        CollectionError, match="shards of documents .part.jsonl. and files .notes.md.. Say which"
    ):
        index.add(folder)
    assert index.add(folder, settings=BuildSettings(read_as="shards")).documents == 1
    assert index.add(folder, collection="f", settings=BuildSettings(read_as="files")).documents == 1
    with pytest.raises(CollectionError, match="read_as is one of auto, files, shards"):
        BuildSettings(read_as="both")


def test_one_file(tmp_path, index):
    assert index.add(made(tmp_path, "one.md") / "one.md").documents == 1


def state(uri):
    rows = lance.dataset(f"{uri}/documents.lance").to_table().to_pylist()
    return sorted(
        json.dumps({name: str(value) for name, value in row.items()}, sort_keys=True) for row in rows
    )


@pytest.mark.slow
def test_killed_at_any_moment_the_next_run_ends_as_an_undisturbed_one(checkpoint, tmp_path, folder):
    model = tmp_path / "model"
    RouterRetriever.create(str(checkpoint), device="cpu").save_pretrained(model)
    for number in range(40):
        (folder / f"more{number}.md").write_text(f"# More {number}\n\n{FILLER}. word{number}. {FILLER}.")

    def command(index, cache, *more):
        line = [
            sys.executable,
            "-m",
            "routerretriever",
            "index",
            "add",
            str(model),
            str(index),
            str(folder),
            *more,
        ]
        environment = {**os.environ, "ROUTERRETRIEVER_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )

    whole = command(tmp_path / "whole", tmp_path / "c0")
    start = time.monotonic()
    assert whole.wait(300) == 0, whole.stderr.read()
    took = time.monotonic() - start
    expected = state(tmp_path / "whole")

    index, cache = tmp_path / "killed", tmp_path / "c1"
    for share in (0.6, 0.8, 0.9):
        process = command(index, cache, "--resume")
        time.sleep(share * took)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
    last = command(index, cache, "--resume")
    assert last.wait(300) == 0, last.stderr.read()
    assert state(index) == expected
    assert len(Index.open(index)) == 44
    for process in (whole, last):
        process.stderr.close()
