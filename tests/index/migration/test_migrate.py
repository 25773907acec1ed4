"""Another base for an index that is searched and written meanwhile."""

import os
import signal
import subprocess
import sys
import uuid
from datetime import timedelta
from types import SimpleNamespace

import lance
import numpy as np
import pytest
from commands import run, run_json
from documents import Killed, killed_after, stored
from tiny import make_checkpoint

from routerretriever import Document, Index, RouterRetriever
from routerretriever.data.document import Section
from routerretriever.errors import BuildError, FingerprintError, VectorIndexError
from routerretriever.index.migration import migrate as migrate_module
from routerretriever.index.migration import staged
from routerretriever.index.migration.record import MigrationFolder
from routerretriever.index.migration.settings import MigrationSettings

BRIDGE = MigrationSettings(only_bridge=True)


@pytest.fixture(scope="module")
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


@pytest.fixture(scope="module", params=[32, 48])
def new_model(request, tmp_path_factory):
    """Of a base with vectors of the same length, and of one with longer ones."""
    folder = make_checkpoint(tmp_path_factory.mktemp("new"), "mpnet", dimension=request.param)
    return RouterRetriever.create(str(folder), device="cpu")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("other"), "mpnet", dimension=48)
    return RouterRetriever.create(str(folder), device="cpu")


def documents(n=120, start=0):
    return [
        Document(f"d{k}", f"word{k} word{(k * 7) % 200} word{(k * 31) % 90}", "", {"year": 1990 + k % 10})
        for k in range(start, start + n)
    ]


@pytest.fixture
def index(model, tmp_path):
    index = Index.create(tmp_path / "index", model)
    index.upsert(documents(), collection="c")
    return index


def fresh(model, folder, contents):
    made = Index.create(folder, model)
    made.upsert(contents, collection="c")
    return made


def same(index, wanted):
    found, expected = stored(index), stored(wanted)
    assert found.keys() == expected.keys()
    for key, (text, vector) in expected.items():
        assert found[key][0] == text
        np.testing.assert_allclose(found[key][1], vector, atol=1e-5)
    for query in ("word3 word21", "word50 word61 word7"):
        hits = index.search(query, 20, where="year > 1991")
        assert [hit.id for hit in hits] == [hit.id for hit in wanted.search(query, 20, where="year > 1991")]


def test_the_index_ends_as_one_that_was_made_with_the_new_base(index, new_model, tmp_path):
    old = Index.open(index.uri, index.model)
    done = index.migrate(new_model)
    assert (done.documents, done.encoded, done.switched) == (120, 120, True)
    assert set(done.figures) == {"procrustes", "ridge"}
    same(Index.open(index.uri, new_model), fresh(new_model, tmp_path / "fresh", documents()))
    same(index, Index.open(index.uri, new_model))
    assert index.describe().migration is None
    assert index.describe().text is not None
    assert not (tmp_path / "index" / "_migration").exists()

    for use in (
        lambda: old.search("word3"),
        lambda: old.upsert([Document("late", "word1")]),
        lambda: old.add([Document("late", "word1")]),
    ):
        with pytest.raises(FingerprintError, match="was migrated to another base"):
            use()
    with pytest.raises(FingerprintError, match="index migrate INDEX"):
        Index.open(index.uri, old.model)
    assert index.add(documents(), collection="c").encoded == 0
    assert index.migrate(new_model).encoded == 0


def test_the_new_model_searches_the_old_vectors_at_once(index, new_model):
    with pytest.raises(FingerprintError):
        Index.open(index.uri, new_model)
    done = index.migrate(new_model, settings=BRIDGE)
    assert (done.switched, done.encoded) == (False, 0)
    bridged = Index.open(index.uri, new_model)
    hits = 0
    for document in documents():
        hits += document.id in {hit.id for hit in bridged.search(document.text, 5, mode="vector")}
    assert hits > 15  # by chance 5; what random weights make of a text is hardly linear in each other
    vectors = new_model.encode_query([documents()[3].text])
    assert [hit.id for hit in bridged.search_vectors(vectors, 5)[0]] == [
        hit.id for hit in bridged.search(documents()[3].text, 5, mode="vector")
    ]
    assert bridged.search("word3")
    for use in (
        lambda: bridged.upsert([Document("late", "word1")]),
        lambda: bridged.add([Document("late", "word1")]),
        lambda: bridged.lookup(["d1"]),
    ):
        with pytest.raises(FingerprintError, match="is being migrated"):
            use()
    assert bridged.delete(["d3"], collection="c") == 1
    state = bridged.describe().migration
    assert (state.fingerprint, state.encoded) == (new_model.fingerprint, 0)


def test_what_others_write_meanwhile_is_not_lost(index, model, other, tmp_path, monkeypatch):
    writer = Index.open(index.uri, model)
    real = type(other).embed_texts
    calls = []

    def embed(self, texts, **options):
        if self is other and len(calls) < 4:
            calls.append(len(texts))
            writer.upsert(
                [Document(f"new{len(calls)}", f"word{len(calls)}", "", {"late": 1})], collection="c"
            )
            writer.upsert([Document("d5", f"word{90 + len(calls)}", "", {"year": 1995})], collection="c")
            writer.delete([f"d{10 + len(calls)}"], collection="c")
        return real(self, texts, **options)

    monkeypatch.setattr(staged, "BLOCK_DOCUMENTS", 50)
    monkeypatch.setattr(type(other), "embed_texts", embed)
    index.migrate(other)
    monkeypatch.undo()
    left = [d for d in documents() if d.id not in {"d5", "d11", "d12", "d13", "d14"}]
    left.append(Document("d5", "word94", "", {"year": 1995}))
    left += [Document(f"new{n}", f"word{n}", "", {"late": 1}) for n in range(1, 5)]
    assert len(calls) == 4
    same(index, fresh(other, tmp_path / "fresh", left))


def test_a_writer_just_before_the_switch_delays_it(index, model, other, tmp_path, monkeypatch):
    writer = Index.open(index.uri, model)
    real, turns = migrate_module.committing, []

    def committing(uri):
        if not turns:
            turns.append(writer.upsert([Document("late", "word7")], collection="c"))
        return real(uri)

    monkeypatch.setattr(migrate_module, "committing", committing)
    index.migrate(other)
    same(index, fresh(other, tmp_path / "fresh", [*documents(), Document("late", "word7")]))


def test_a_killed_migration_goes_on_where_it_was(index, other, tmp_path, monkeypatch):
    monkeypatch.setattr(staged, "BLOCK_DOCUMENTS", 30)
    with monkeypatch.context() as patch:
        killed_after(patch, other, 3)
        with pytest.raises(Killed):
            index.migrate(other)
    assert Index.open(index.uri, index.model).search("word3")
    assert Index.open(index.uri).describe().migration.encoded == 60
    done = Index.open(index.uri).migrate(other)
    assert (done.encoded, done.switched) == (60, True)
    same(Index.open(index.uri, other), fresh(other, tmp_path / "fresh", documents()))


@pytest.mark.parametrize("step", ["_finish", "remove"])
def test_a_kill_after_the_switch(index, other, tmp_path, monkeypatch, step):
    index.build_text_index(language="German")
    owner = MigrationFolder if step == "remove" else migrate_module._Migration

    def killed(*given):
        if Index.open(index.uri).describe().fingerprint == other.fingerprint:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, killed)
        with pytest.raises(Killed):
            index.migrate(other)
    found = Index.open(index.uri, other)
    assert found.search("word3", mode="vector")
    found.migrate(other)
    assert found.describe().text.language == "German"
    assert found.describe().migration is None
    assert not (tmp_path / "index" / "_migration").exists()


def test_how_it_is_searched_is_kept(index, other):
    index.build_index("ivf_flat")
    index.drop_text_index()
    index.migrate(other)
    assert (index.kind.kind, index.describe().text) == ("ivf_flat", None)


def test_old_vectors_stay_until_they_are_dropped(index, other):
    dimensions = {
        lance.dataset(f"{index.uri}/documents.lance", version=entry["version"])
        .schema.field("vector")
        .type.list_size
        for entry in lance.dataset(f"{index.uri}/documents.lance").versions()
    }
    assert dimensions == {32}
    before = lance.dataset(f"{index.uri}/documents.lance").version
    index.migrate(other)
    assert lance.dataset(f"{index.uri}/documents.lance", version=before).count_rows() == 120
    index.migrate(other, settings=MigrationSettings(drop_old=True))
    assert len(lance.dataset(f"{index.uri}/documents.lance").versions()) == 1
    index.clean(timedelta(0))
    assert index.search("word3")


def test_long_documents_are_cut_for_the_new_base(model, other, tmp_path):
    text = "\n\n".join(" ".join(f"word{(n * 7 + k) % 200}" for k in range(40)) for n in range(6))
    long = Document("long", text, "zap", {"year": 2000}, (Section(start=0, heading="word1"),))
    index = Index.create(tmp_path / "index", model)
    index.upsert([long, *documents(5)], collection="c")
    index.migrate(other)
    assert index.describe().passages > 6
    assert len(index) == 6
    assert index.add([long, *documents(5)], collection="c").encoded == 0
    (hit,) = index.search(text[:200], 1)
    assert (hit.id, hit.title, hit.metadata) == ("long", "zap", {"year": 2000})


def test_an_empty_index(model, other, tmp_path):
    index = Index.create(tmp_path / "index", model)
    assert index.migrate(other).switched
    index.upsert(documents(3), collection="c")
    assert len(index.search("word1")) == 3


def test_one_migration_at_a_time(index, other, tmp_path):
    index.migrate(other, model_path=tmp_path / "first", settings=BRIDGE)
    third = RouterRetriever.create(str(make_checkpoint(tmp_path / "third", dimension=16)), device="cpu")
    with pytest.raises(BuildError, match="is being migrated to the base of .*first"):
        index.migrate(third)
    with pytest.raises(VectorIndexError, match="at least 1"):
        MigrationSettings(sample=0)


SCRIPT = """
import sys, time
from routerretriever import Index, RouterRetriever
from routerretriever.index.migration import staged
staged.BLOCK_DOCUMENTS = 20
uri, folder = sys.argv[1:]
model = RouterRetriever.from_pretrained(folder, device="cpu")
embed = type(model).embed_texts
def slow(self, texts, **options):
    print("block", flush=True)
    time.sleep(0.1)
    return embed(self, texts, **options)
type(model).embed_texts = slow
Index.open(uri).migrate(model, model_path=folder)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_same(index, other, tmp_path):
    other.save(str(tmp_path / "new"))
    command = [sys.executable, "-c", SCRIPT, index.uri, str(tmp_path / "new")]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
    for _ in range(4):
        killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert Index.open(index.uri, index.model).search("word3")
    assert Index.open(index.uri).describe().migration.encoded == 40
    subprocess.run(command, check=True, capture_output=True)
    same(Index.open(index.uri), fresh(other, tmp_path / "fresh", documents()))


@pytest.mark.slow
def test_in_an_object_store(model, other, s3, tmp_path, monkeypatch):
    """It has no lock, so another may write between the last look and the switch."""
    index = Index.create(s3.uri("index"), model)
    index.upsert(documents(), collection="c")
    writer = Index.open(index.uri, model)

    def named():
        writer.upsert([Document("late", "word7")], collection="c")
        writer.delete(["d3"], collection="c")
        return uuid.uuid4()

    monkeypatch.setattr(migrate_module, "uuid", SimpleNamespace(uuid4=named))
    index.migrate(other)
    wanted = [*(d for d in documents() if d.id != "d3"), Document("late", "word7")]
    fresh(other, tmp_path / "fresh", wanted)
    same(Index.open(index.uri, other), Index.open(tmp_path / "fresh", other))
    assert index.describe().migration is None


def test_commands(index, model, other, tmp_path, checkpoint):
    model.save(str(tmp_path / "model"))
    other.save(str(tmp_path / "new"))
    run("index", "migrate", index.uri, code=1)
    told = run_json("index", "migrate", index.uri, "--model", tmp_path / "new", "--only-bridge")
    assert (told["switched"], told["method"] in told["figures"]) == (False, True)
    assert "migrating to" in run("index", "info", index.uri).stdout
    assert run_json("search", index.uri, "word3", "--model", tmp_path / "new")["hits"]
    assert run_json("search", index.uri, "word3", "--model", tmp_path / "model")["hits"]
    shown = run("index", "migrate", index.uri, "--model", tmp_path / "new", "--drop-old").stdout
    assert "120 documents, 120 encoded" in " ".join(shown.split())
    assert run_json("search", index.uri, "word3")["hits"]
    assert (
        "was made with another base"
        in run("search", index.uri, "x", "--model", tmp_path / "model", code=1).stderr
    )
    told = run_json("index", "migrate", index.uri, "--base", checkpoint, "--model", tmp_path / "third")
    assert (told["switched"], (tmp_path / "third" / "modules.json").exists()) == (True, True)
