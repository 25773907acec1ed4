"""Builds on a cluster of this machine: what the driver refuses, sources of every kind, faults, and the command line."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import record, write_jsonl
from typer.testing import CliRunner

from routerretriever import Index, RouterRetriever
from routerretriever.cli.app import app
from routerretriever.cluster import connection, encode
from routerretriever.data.document import Document
from routerretriever.errors import BuildError


@pytest.fixture(scope="module")
def model_path(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("ray") / "model"
    RouterRetriever.create(str(checkpoint), device="cpu").save_pretrained(path)
    return path


def refused(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    return " ".join(result.stderr.split())


# -- what is refused -------------------------------------------------------------------------------


def test_options_that_would_do_nothing_are_refused(model_path, tmp_path):
    index = tmp_path / "index"
    assert "Workers need a cluster" in refused("index", model_path, index, "docs", "--workers", 2)
    assert "Leave out --device" in refused(
        "index", model_path, index, "docs", "--cluster", "local", "--device", "cpu"
    )
    assert not index.exists()
    Index.create(index, RouterRetriever.from_pretrained(model_path, device="cpu")).upsert(
        [Document("d", "word1")]
    )
    assert "Workers need a cluster" in refused("index", "build", index, "--workers", 2)
    assert "built by one process" in refused("index", "build", index, "--text", "--cluster", "local")
    for kind in ("flat", "auto"):
        assert "nothing for a cluster to build" in refused(
            "index", "build", index, "--kind", kind, "--cluster", "local"
        )
    assert "not 'hnsw'" in refused("index", "build", index, "--kind", "hnsw", "--cluster", "local")


def test_more_workers_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(connection.ray, "cluster_resources", lambda: {"CPU": 4.0})
    assert [connection.worker_count(asked) for asked in (None, 1, 4)] == [4, 1, 4]
    with pytest.raises(BuildError, match="5 workers were asked for, but the cluster has 4 processors"):
        connection.worker_count(5)


def test_threads_of_a_stopped_job_start_no_other_cluster():
    program = "import routerretriever.cluster.encode, ray; ray.put(1)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert "Ray has not been started" in done.stderr


# -- jobs ------------------------------------------------------------------------------------------


def index_command(model_path, *arguments, cwd):
    command = [sys.executable, "-m", "routerretriever", "index", str(model_path), *arguments, "--json"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    )


def answer(process):
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out)


def ids(index):
    return sorted(lance.dataset(f"{index}/documents.lance").to_table(columns=["id"])["id"].to_pylist())


def test_sources_of_every_kind_with_faults_on_a_cluster(model_path, tmp_path):
    """Also: paths as typed, two workers, and a build that is taken over."""
    docs, index = tmp_path / "docs", tmp_path / "index"
    write_jsonl(
        docs / "a.jsonl", [*[record(k) for k in range(10)], "{broken\n", {**record(99), "year": 2**63}]
    )
    write_jsonl(docs / "b.jsonl.gz", [record(k) for k in range(10, 20)] + [record(3, "again")])
    write_jsonl(docs / "c.jsonl.zst", [record(k) for k in range(20, 30)] + [{"_id": "x", "text": 3}])
    pq.write_table(pa.Table.from_pylist([record(k) for k in range(30, 40)]), docs / "d.parquet")
    options = ["index", "docs", "--cluster", "local", "--workers", "2"]
    Index.create(index, RouterRetriever.from_pretrained(model_path, device="cpu"))
    leave_a_claim(index)
    options += ["--on-error", "quarantine", "--resume"]
    report = answer(index_command(model_path, *options, cwd=tmp_path))
    assert (report["documents"], len(report["problems"]), report["total"]) == (40, 4, 40)
    places = [problem["where"].split("/")[-1] for problem in report["problems"]]
    assert places == ["a.jsonl, line 11", "a.jsonl, line 12", "b.jsonl.gz, line 11", "c.jsonl.zst, line 11"]
    assert len(Path(report["quarantine"]).read_text(encoding="utf-8").splitlines()) == 4
    assert ids(index) == sorted(f"d{k}" for k in range(40))


def leave_a_claim(index):
    """What a build that is killed leaves behind."""
    program = (
        "import os, sys; from routerretriever.index.build.lock import build_lock; hold = build_lock(sys.argv[1], 'docs', resume=False);"
        "hold.__enter__(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, f"{index}/documents.lance"], check=False)
    assert done.returncode == -signal.SIGKILL


def test_int8_is_refused_where_workers_have_accelerators(monkeypatch):
    monkeypatch.setattr(encode.ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    with pytest.raises(BuildError, match="workers have accelerators"):
        next(encode._map_chunks(SimpleNamespace(precision="int8"), [], None, None))
