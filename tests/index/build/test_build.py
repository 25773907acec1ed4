import json
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import Killed, killed_after, record, stored, write_jsonl

from routerretriever import Index, RouterRetriever
from routerretriever.data.document import Document
from routerretriever.errors import BuildError, CollectionError, StorageError, VectorIndexError
from routerretriever.index import connection as index_store
from routerretriever.index import lance_store
from routerretriever.index.build import all_results as results_module
from routerretriever.index.build import build as build_module
from routerretriever.index.build import chunk_result as chunk_result_module
from routerretriever.index.build import chunks as chunks_module
from routerretriever.index.build import lock as lock_module
from routerretriever.index.build import read_chunk as read_chunk_module
from routerretriever.index.build import replaced_rows
from routerretriever.index.build.lock import build_lock
from routerretriever.index.build.settings import BuildSettings


@pytest.fixture(scope="module")
def model(checkpoint):
    return RouterRetriever.create(str(checkpoint), device="cpu")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch, tmp_path):
    monkeypatch.setenv("ROUTERRETRIEVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(chunks_module, "CHUNK_ROWS", 20)


@pytest.fixture
def index(model, tmp_path):
    return Index.create(tmp_path / "index", model)


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "docs"
    write_jsonl(folder / "a.jsonl", [record(k) for k in range(50)])
    write_jsonl(folder / "b.jsonl.gz", [record(k) for k in range(50, 95)])
    write_jsonl(folder / "c.jsonl.zst", [record(k) for k in range(95, 120)])
    rows = [record(k) for k in range(120, 165)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "d.parquet", row_group_size=11)
    return folder


def test_shards_of_every_kind(index, shards, model):
    report = index.add(shards)
    assert (report.collection, report.documents, report.encoded, report.problems) == ("docs", 165, 165, ())
    assert report.chunks == 3 + 3 + 2 + 3
    found = stored(index)
    assert list(found) == [f"d{k}" for k in range(165)]
    vectors = model.encode_document([text for text, _ in found.values()])
    np.testing.assert_allclose([vector for _, vector in found.values()], vectors, atol=1e-5)
    assert index.search("word3 word21", k=1)[0].metadata == {"year": 1993}


def test_a_build_that_changes_nothing_encodes_nothing_and_makes_no_version(index, shards, model, monkeypatch):
    index.add(shards)
    killed_after(monkeypatch, model, 0)
    rows = lance.dataset(f"{index.uri}/documents.lance").get_fragments()
    report = index.add(shards)
    assert (report.encoded, report.unchanged, report.replaced, report.gone) == (0, 165, 0, 0)
    assert [f.fragment_id for f in lance.dataset(f"{index.uri}/documents.lance").get_fragments()] == [
        f.fragment_id for f in rows
    ]


def test_only_what_is_new_or_changed_is_encoded(index, tmp_path, model, monkeypatch):
    path = write_jsonl(tmp_path / "docs.jsonl", [record(k) for k in range(60)])
    index.add(path)
    changed = [record(k, "word111" if k in (3, 45) else None) for k in range(1, 62)]
    write_jsonl(path, changed)
    encoded = []
    embed = type(model).embed_texts
    monkeypatch.setattr(
        type(model),
        "embed_texts",
        lambda self, texts, **kw: encoded.extend(texts) or embed(self, texts, **kw),
    )
    report = index.add(path)
    assert sorted(encoded) == sorted(["word111", "word111", "word60 word20", "word61 word27"])
    assert (report.encoded, report.replaced, report.gone, report.pruned) == (4, 2, 1, False)
    assert set(stored(index)) == {f"d{k}" for k in range(62)}
    assert stored(index)["d45"][0] == "word111"
    report = index.add(path, settings=BuildSettings(prune=True))
    assert (report.encoded, report.gone, report.pruned) == (0, 1, True)
    assert set(stored(index)) == {f"d{k}" for k in range(1, 62)}


def test_other_collections_are_left_alone(index, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [record(k) for k in range(5)])
    index.add(path)
    index.add(path, collection="b")
    index.add(write_jsonl(path, [record(9)]), settings=BuildSettings(prune=True))
    assert len(index) == 6


def test_changed_metadata_are_a_change(index, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [record(1)])
    index.add(path)
    report = index.add(write_jsonl(path, [{**record(1), "year": 2024, "lang": "en"}]))
    assert report.replaced == 1
    assert index.search("word1", k=1)[0].metadata == {"year": 2024, "lang": "en"}


def test_documents_and_collections_in_memory(index):
    documents = [Document(f"d{k}", f"word{k}") for k in range(45)]
    report = index.add(documents, collection="mine")
    assert (report.collection, report.encoded, report.chunks) == ("mine", 45, 3)
    assert index.add(documents, collection="mine").unchanged == 45


# -- what cannot be indexed ------------------------------------------------------------------------


def broken(folder):
    """Shards with every kind of fault; the good rows are d0…d9 and d20…d24."""
    good = [record(k) for k in range(10)]
    lines = [
        *good[:4],
        "{not json\n",
        *good[4:],
        json.dumps({"text": "no id"}) + "\n",
        '{"_id": "x", "text": 3}\n',
    ]
    lines += [record(99, lang="never seen before: beyond the sample"), {**record(98), "year": "text"}]
    write_jsonl(folder / "a.jsonl", lines)
    write_jsonl(
        folder / "b.jsonl",
        [record(3, "again"), *[record(k) for k in range(20, 25)], record(21, "twice here")],
    )


def test_stop_names_shard_and_line_and_keeps_what_is_done(index, tmp_path, monkeypatch):
    folder = tmp_path / "docs"
    write_jsonl(folder / "a.jsonl", [record(k) for k in range(40)])
    write_jsonl(folder / "b.jsonl", [record(50), "{broken\n"])
    with pytest.raises(CollectionError, match=r"b\.jsonl, line 2: not valid JSON.*on-error skip"):
        index.add(folder)
    assert len(index) == 0
    write_jsonl(folder / "b.jsonl", [record(50)])
    report = index.add(folder)
    assert (report.encoded, report.recorded) == (41, 40)
    assert len(index) == 41


def test_an_id_that_stands_in_two_shards(index, tmp_path):
    folder = tmp_path / "docs"
    write_jsonl(folder / "a.jsonl", [record(k) for k in range(30)])
    write_jsonl(folder / "b.jsonl", [record(40), record(25, "the same id")])
    with pytest.raises(CollectionError, match=r"b\.jsonl, line 2: its id is in .*a\.jsonl, line 26 too"):
        index.add(folder)
    report = index.add(folder, settings=BuildSettings(on_error="skip"))
    assert [str(problem).split("/")[-1] for problem in report.problems] == [
        "b.jsonl, line 2: the id 'd25' is on an earlier line too."
    ]
    assert stored(index)["d25"][0] == "word25 word175"
    assert len(index) == 31
    assert report.documents == 31


def test_skip_counts_everything_that_is_left_out(index, tmp_path):
    folder = tmp_path / "docs"
    broken(folder)
    report = index.add(folder, settings=BuildSettings(on_error="skip"))
    told = [str(problem).split("/")[-1] for problem in report.problems]
    assert [text.split(":")[0] for text in told] == [
        "a.jsonl, line 5",
        "a.jsonl, line 12",
        "a.jsonl, line 13",
        "a.jsonl, line 15",
        "b.jsonl, line 1",
        "b.jsonl, line 7",
    ]
    assert "'year' is str here and int64" in told[3]
    assert set(stored(index)) == {f"d{k}" for k in (*range(10), *range(20, 25), 99)}


UNSTORABLE = [
    ({"metadata": "foo"}, "'metadata' is str. Make it an object"),
    ({"metadata": 5}, "'metadata' is int. Make it an object"),
    ({"metadata": [["a", 1]]}, "'metadata' is list. Make it an object"),
    ({"year": 2**63}, "the field 'year' is beyond 64 bits"),
    ({"metadata": {"year": -(2**63) - 1}}, "the field 'year' is beyond 64 bits"),
    ({"text": "half \ud800"}, "half of a surrogate pair"),
    ({"title": "\udfff"}, "half of a surrogate pair"),
    ({"_id": "\ud800"}, "half of a surrogate pair"),
    ({"lang": "\ud800"}, "half of a surrogate pair"),
    ({"\ud800": 1}, "half of a surrogate pair"),
]


@pytest.mark.parametrize(("fault", "reason"), UNSTORABLE)
def test_what_cannot_be_stored_is_a_problem_like_others(index, tmp_path, fault, reason):
    path = write_jsonl(tmp_path / "a.jsonl", [record(1), {**record(2), **fault}, record(3)])
    with pytest.raises(CollectionError, match=rf"a\.jsonl, line 2: .*{reason}"):
        index.add(path)
    report = index.add(path, settings=BuildSettings(on_error="quarantine"))
    assert [str(problem).split("/")[-1].split(":")[0] for problem in report.problems] == ["a.jsonl, line 2"]
    assert reason in report.problems[0].reason
    assert len(Path(report.quarantine).read_text(encoding="utf-8").splitlines()) == 1
    assert set(stored(index)) == {"d1", "d3"}


@pytest.mark.parametrize(
    "document",
    [Document("d2", "\ud800"), Document("\ud800", "text"), Document("d2", "text", "", {"year": 2**64})],
)
def test_documents_in_memory_that_cannot_be_stored(index, document):
    documents = [Document("d1", "word1"), document]
    with pytest.raises(CollectionError, match="Document 2: .*(surrogate pair|beyond 64 bits)"):
        index.add(documents)
    with pytest.raises(CollectionError, match="Document 2: .*(surrogate pair|beyond 64 bits)"):
        index.upsert(documents)


def test_lines_nested_without_end_are_a_problem(index, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [record(1), "[" * 100_000 + "\n"])
    assert len(index.add(path, settings=BuildSettings(on_error="skip")).problems) == 1


def test_a_field_that_appears_late(index, tmp_path, monkeypatch):
    monkeypatch.setattr(read_chunk_module, "SAMPLED_ROWS", 5)
    path = write_jsonl(tmp_path / "a.jsonl", [*[record(k) for k in range(10)], record(10, lang="en")])
    with pytest.raises(
        CollectionError, match=r"line 11: the field 'lang' is not one of .*: year\. .*first 100 rows"
    ):
        index.add(path)
    write_jsonl(path, [record(10, lang="en"), *[record(k) for k in range(10)]])
    assert index.add(path).documents == 11  # as the message says


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_truncated_shards(index, tmp_path, name):
    path = tmp_path / "docs" / name
    rows = [record(k, f"word{k} " + f"{np.random.default_rng(k).bytes(60).hex()}") for k in range(3000)]
    path.parent.mkdir()
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_jsonl(path, rows)
    path.write_bytes(path.read_bytes()[:-20_000])
    write_jsonl(path.parent / "z.jsonl", [record(9999)])
    with pytest.raises(CollectionError, match=rf"{name}.*(truncated|not a whole Parquet)"):
        index.add(path.parent)
    report = index.add(path.parent, settings=BuildSettings(on_error="skip"))
    assert len(report.problems) >= 1
    assert "d9999" in stored(index)
    assert len(stored(index)) == (1 if name.endswith("parquet") else report.documents)
    if not name.endswith("parquet"):
        assert 1000 < report.documents < 3001


def test_quarantine_keeps_the_lines(index, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [record(1), "{broken\n"])
    report = index.add(path, settings=BuildSettings(on_error="quarantine"))
    kept = [json.loads(line) for line in Path(report.quarantine).read_text(encoding="utf-8").splitlines()]
    assert [(item["raw"], item["where"].split(", ")[1]) for item in kept] == [("{broken", "line 2")]
    assert index.add(path, settings=BuildSettings(on_error="skip")).quarantine == ""


def test_settings_are_checked():
    with pytest.raises(CollectionError, match="stop, skip, quarantine"):
        BuildSettings(on_error="ignore")


@pytest.mark.parametrize("content", [None, []])
def test_nothing_to_index(index, tmp_path, content):
    folder = tmp_path / "docs"
    folder.mkdir()
    if content is not None:
        write_jsonl(folder / "a.jsonl", content)
    with pytest.raises(CollectionError, match="holds no"):
        index.add(folder)


def test_metadata_may_not_take_the_indexs_names(index, tmp_path):
    with pytest.raises(
        CollectionError, match=r"a\.jsonl, line 1: the index needs the name of the field 'vector' itself"
    ):
        index.add(write_jsonl(tmp_path / "a.jsonl", [{**record(1), "vector": 3}]))


# -- interrupted, and side by side -----------------------------------------------------------------


def test_a_killed_build_goes_on_where_it_was(index, shards, model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(lock_module, "held_lock", lambda dataset: None)  # nobody releases the lock
        killed_after(patch, model, 4)
        with pytest.raises(Killed):
            index.add(shards)
    with pytest.raises(BuildError, match=r"held by a build of 'docs' begun .* by process \d+ on .*--resume"):
        index.add(shards)
    with pytest.raises(BuildError, match="Resume that collection first"):
        index.add(shards, collection="other", settings=BuildSettings(resume=True))
    report = index.add(shards, settings=BuildSettings(resume=True))
    assert (report.documents, report.encoded, report.recorded) == (165, 165, 70)
    assert len(stored(index)) == 165
    assert index.add(shards).encoded == 0


HOLDER = """
import sys, time
from routerretriever.index.build.lock import build_lock
with build_lock(sys.argv[1], "docs", resume=False):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_build_that_is_alive_is_not_taken_over(index, shards, monkeypatch):
    command = [sys.executable, "-c", HOLDER, f"{index.uri}/documents.lance"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BuildError, match=rf"by process {holder.pid} on .*still running"):
            index.add(shards, settings=BuildSettings(resume=True))
        with monkeypatch.context() as patch:  # a later process with the same number
            patch.setattr(psutil.Process, "create_time", lambda self: time.time() + 60)
            assert not lock_module.held_lock(lance.dataset(command[-1])).is_alive()
        with monkeypatch.context() as patch:  # nobody knows who lives on another host
            patch.setattr(lock_module.socket, "gethostname", lambda: "elsewhere")
            assert not lock_module.held_lock(lance.dataset(command[-1])).is_alive()
        holder.kill()
    assert index.add(shards, settings=BuildSettings(resume=True)).encoded == 165


def test_a_build_of_this_process_is_not_taken_over_either(index, shards):
    with (
        build_lock(f"{index.uri}/documents.lance", "docs", resume=False),
        pytest.raises(BuildError, match="still running"),
    ):
        index.add(shards, settings=BuildSettings(resume=True))


def test_a_build_killed_after_its_commit_is_not_committed_again(index, shards, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(lock_module, "held_lock", lambda dataset: None)
        patch.setattr(build_module.Build, "_report", lambda *args: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            index.add(shards)
    report = index.add(shards, settings=BuildSettings(resume=True))
    assert (report.documents, report.encoded, report.recorded) == (165, 165, 0)
    assert len(stored(index)) == 165


def test_records_whose_files_are_gone_are_not_believed(index, shards, model, monkeypatch):
    with monkeypatch.context() as patch:
        killed_after(patch, model, 4)
        with pytest.raises(Killed):
            index.add(shards)
    data = Path(index.uri) / "documents.lance/data"
    for path in data.iterdir():
        path.unlink()
    report = index.add(shards)
    assert report.recorded == 0
    assert len(stored(index)) == 165


def test_two_builds_at_once(index, shards, tmp_path):
    with (
        build_lock(f"{index.uri}/documents.lance", "other", resume=False),
        pytest.raises(BuildError, match="other"),
    ):
        index.add(shards)
    assert index.add(shards).encoded == 165


def test_of_two_claims_at_the_same_moment_one_holds(index):
    uri, barrier, won, lost = f"{index.uri}/documents.lance", threading.Barrier(4), [], []

    def claim(number):
        barrier.wait()
        try:
            with build_lock(uri, f"c{number}", resume=False):
                won.append(number)
                barrier.wait(10)
        except BuildError as error:
            lost.append(str(error))
            barrier.wait(10)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 3)


@pytest.mark.parametrize("reason", ["No space left on device", "Access Denied", "Permission denied"])
def test_an_index_that_cannot_be_claimed_says_why(index, shards, monkeypatch, reason):
    def refuse(*arguments, **options):
        raise OSError(reason)

    monkeypatch.setattr(lance.LanceDataset, "update_config", refuse)
    with pytest.raises(StorageError, match=reason):
        index.add(shards)


def test_paths_do_not_depend_on_where_a_worker_stands(model, tmp_path, monkeypatch):
    for folder in ("driver", "worker"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "driver")
    write_jsonl(Path("a.jsonl"), [record(k) for k in range(30)])
    index, run_here = Index.create("index", model), lance_store.run_here

    def run_elsewhere(model):
        def run(job, chunks):
            monkeypatch.chdir(tmp_path / "worker")
            return run_here(model)(job, chunks)

        return run

    monkeypatch.setattr(lance_store, "run_here", run_elsewhere)
    assert index.add("a.jsonl").documents == 30
    assert list((tmp_path / "worker").iterdir()) == []
    monkeypatch.chdir(tmp_path / "driver")
    assert len(stored(Index.open("index"))) == 30


@pytest.mark.parametrize("uri", ["s3://bucket/index", "file:///index", "/index"])
def test_uris_stay_as_they_are(uri):
    assert index_store.located(uri) == uri


def test_a_document_deleted_and_one_changed_while_building(index, shards, model, monkeypatch):
    """Another client deletes an unchanged document and upserts a changed one while pieces are done."""
    index.add(shards)
    write_jsonl(shards / "a.jsonl", [record(k, "word5" if k == 7 else None) for k in range(50)])
    embed = type(model).embed_texts

    def encode(self, texts, **kwargs):
        if texts == ["word5"]:
            other = Index.open(index.uri, model)
            other.delete(["d8", "d160"], collection="docs")
            other.upsert(
                [Document("d9", "word6", "", {"year": 1})],
                collection="docs",
                encode=lambda t: np.ones((1, self.encoder.dimension), np.float32),
            )
        return embed(self, texts, **kwargs)

    monkeypatch.setattr(type(model), "embed_texts", encode)
    index.add(shards)
    found = stored(index)
    assert len(found) == 165
    assert found["d7"][0] == "word5"
    assert found["d8"][0] == "word8 word56"


def test_memory_stays_bounded_by_comparing_a_share_of_ids_at_a_time(index, shards, monkeypatch, tmp_path):
    monkeypatch.setattr(results_module, "PART_IDS", 16)
    index.add(shards)
    write_jsonl(shards / "a.jsonl", [record(k, "word5" if k == 7 else None) for k in range(1, 50)])
    write_jsonl(shards / "e.jsonl", [record(7, "again")])
    report = index.add(shards, settings=BuildSettings(on_error="skip", prune=True))
    assert (report.encoded, report.replaced, report.gone, len(report.problems)) == (1, 1, 1, 1)
    found = stored(index)
    assert found["d7"][0] == "word5"
    assert set(found) == {f"d{k}" for k in range(1, 165)}


def test_digests_alike_are_not_ids_alike(index, tmp_path, monkeypatch):
    for module in (chunk_result_module, replaced_rows):
        monkeypatch.setattr(module, "id_digest", lambda document_id: int(document_id[1:]) % 7)
    path = write_jsonl(tmp_path / "a.jsonl", [record(k) for k in range(50)])
    report = index.add(path)
    assert (report.documents, len(stored(index))) == (50, 50)
    write_jsonl(path, [record(k, "word5" if k == 30 else None) for k in range(30, 80)])
    report = index.add(path)
    assert (report.encoded, report.unchanged, report.replaced, report.gone) == (31, 19, 1, 30)
    found = stored(index)
    assert set(found) == {f"d{k}" for k in range(80)}
    assert (found["d30"][0], found["d2"][0]) == ("word5", "word2 word14")
    assert index.add(path, settings=BuildSettings(prune=True)).gone == 30
    assert set(stored(index)) == {f"d{k}" for k in range(30, 80)}


def test_of_ids_that_stand_twice_the_first_is_kept_though_digests_are_alike(index, tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_result_module, "id_digest", lambda document_id: 7)
    for name in ("a", "b", "c"):
        write_jsonl(tmp_path / "docs" / f"{name}.jsonl", [record(k, f"word{ord(name)}") for k in range(3)])
    report = index.add(tmp_path / "docs", settings=BuildSettings(on_error="skip"))
    assert len(report.problems) == 6
    assert {text for text, _ in stored(index).values()} == {"word97"}
    with pytest.raises(CollectionError, match=r"b.jsonl, line 1: its id is in .*a.jsonl, line 1 too"):
        Index.create(tmp_path / "other", index.model).add(tmp_path / "docs")


def test_nothing_is_left_of_the_only_shard(index, tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"not Parquet")
    report = index.add(path, settings=BuildSettings(on_error="skip", prune=True))
    assert (report.documents, len(report.problems)) == (0, 1)


def test_an_older_index_is_refused(index, model):
    info = json.loads(index._store.table.schema.metadata[b"routerretriever"]) | {"format_version": 1}
    lance.dataset(f"{index.uri}/documents.lance").update_schema_metadata(
        {"routerretriever": json.dumps(info)}, replace=True
    )
    with pytest.raises(VectorIndexError, match="format 1.*Index the documents again"):
        Index.open(index.uri, model)


def killed_before_the_end(index, source, monkeypatch, step):
    with monkeypatch.context() as patch:
        patch.setattr(lock_module, "held_lock", lambda dataset: None)  # nobody releases the lock
        patch.setattr(build_module.Build, step, lambda *arguments: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            index.add(source)


@pytest.mark.parametrize("step", ["_commit", "_report"])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_killed_build_goes_on_though_versions_were_cleaned_away(
    index, shards, monkeypatch, step, compacted
):
    index.add([Document("old", "word1")], collection="other")
    killed_before_the_end(index, shards, monkeypatch, step)
    if compacted:
        index.compact()
    index.clean(timedelta(0))
    encoded = killed_after(monkeypatch, index.model, 99)
    report = index.add(shards, settings=BuildSettings(resume=True))
    assert (report.documents, len(stored(index))) == (165, 166)
    assert sum(encoded) == 0
