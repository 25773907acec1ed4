"""Builds on a real cluster whose workers, nodes, network, driver and disk fail."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import lance
import numpy as np
import pytest
from cluster_nodes import Nodes, available, ping_often
from documents import record, write_jsonl
from object_store import object_store, server_command
from pyarrow.fs import FileSelector, FileSystem, copy_files

import routerretriever
from routerretriever import RouterRetriever

pytestmark = pytest.mark.skipif(available() is not None, reason=f"no cluster here: {available()}")
DRIVER = Path(__file__).parents[1] / "support" / "cluster_driver.py"
SEARCH_DRIVER = DRIVER.with_name("cluster_search_driver.py")
DOCUMENTS = 3000


def quick_to_notice(host):
    return {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}


@pytest.fixture(scope="module")
def model_path(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("cluster") / "model"
    RouterRetriever.create(str(checkpoint), device="cpu").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster") / "docs"
    for part in range(3):
        write_jsonl(folder / f"{part}.jsonl", [record(k) for k in range(part * 1000, part * 1000 + 1000)])
    return folder


class Build:
    """A driver that builds ``index`` while the test breaks something."""

    def __init__(self, address, model_path, source, index, *options):
        self.system, self.path = FileSystem.from_uri(str(index))
        command = [sys.executable, str(DRIVER), address, str(model_path), str(index), str(source), *options]
        cache = model_path.parent / f"cache-{index}".replace("/", "_")
        environment = {**os.environ, "ROUTERRETRIEVER_CACHE": str(cache), "RAY_AUTH_MODE": "disabled"}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def pieces_done(self):
        found = self.system.get_file_info(
            FileSelector(f"{self.path}/_builds", recursive=True, allow_not_found=True)
        )
        return len([info for info in found if info.is_file and not info.base_name.startswith(".")])

    def wait_for_pieces(self, count):
        deadline = time.monotonic() + 120
        while self.pieces_done() < count:
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def report(self, seconds=240):
        out, errors = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, errors[-3000:]
        return json.loads(out.splitlines()[-1])


def stored(index):
    return lance.dataset(f"{index}/documents.lance").to_table().sort_by("id")


def check_whole(index):
    assert sorted(stored(index)["id"].to_pylist()) == sorted(f"d{k}" for k in range(DOCUMENTS))
    system, path = FileSystem.from_uri(str(index))
    left = system.get_file_info(FileSelector(f"{path}/_builds", recursive=True, allow_not_found=True))
    assert [info.path for info in left if info.is_file] == []


def test_two_nodes_write_what_one_process_writes(model_path, source, tmp_path):
    alone = Build("none", model_path, source, tmp_path / "alone", "rows=250").report()
    with Nodes.start(2) as nodes:
        report = Build(nodes.address, model_path, source, tmp_path / "index", "rows=250").report()
    assert (
        (report["documents"], report["encoded"])
        == (alone["documents"], alone["encoded"])
        == (DOCUMENTS, DOCUMENTS)
    )
    check_whole(tmp_path / "index")
    one, two = stored(tmp_path / "alone"), stored(tmp_path / "index")
    assert one.drop_columns("vector").equals(two.drop_columns("vector"))
    np.testing.assert_array_equal(*(np.stack(t["vector"].to_numpy(zero_copy_only=False)) for t in (one, two)))


@pytest.mark.cluster
def test_a_killed_worker(model_path, source, tmp_path):
    with Nodes.start(2) as nodes:
        build = Build(nodes.address, model_path, source, tmp_path / "index")
        build.wait_for_pieces(10)
        os.kill(nodes.workers(1, "MapWorker")[0], signal.SIGKILL)
        assert build.report()["documents"] == DOCUMENTS
    check_whole(tmp_path / "index")


@pytest.mark.cluster
def test_a_killed_node(model_path, source, tmp_path):
    with Nodes.start(2, environment=quick_to_notice) as nodes:
        build = Build(nodes.address, model_path, source, tmp_path / "index")
        build.wait_for_pieces(10)
        nodes.kill(1)
        assert build.report()["documents"] == DOCUMENTS
    check_whole(tmp_path / "index")


@pytest.mark.cluster
def test_a_node_that_is_cut_off_for_a_minute(model_path, source, tmp_path):
    with Nodes.start(2) as nodes:
        build = Build(nodes.address, model_path, source, tmp_path / "index")
        build.wait_for_pieces(10)
        nodes.cut(1)
        time.sleep(60)
        nodes.heal(1)
        assert build.report()["documents"] == DOCUMENTS
    check_whole(tmp_path / "index")


@pytest.mark.cluster
def test_a_node_that_vanishes_for_good(model_path, source, tmp_path, monkeypatch):
    """No connection to it is closed, as when the power goes."""
    ping_often(monkeypatch)
    with Nodes.start(2, environment=quick_to_notice) as nodes:
        build = Build(nodes.address, model_path, source, tmp_path / "index")
        build.wait_for_pieces(10)
        nodes.cut(1)
        assert build.report()["documents"] == DOCUMENTS
    check_whole(tmp_path / "index")


@pytest.mark.cluster
def test_the_last_node_is_lost(model_path, source, tmp_path):
    with Nodes.start(1, environment=quick_to_notice) as nodes:
        build = Build(nodes.address, model_path, source, tmp_path / "index", "alone=5")
        build.wait_for_pieces(10)
        nodes.kill(1)
        _, errors = build.process.communicate(timeout=120)
        assert build.process.returncode == 1
        assert "BuildError: The cluster has lost all its nodes" in errors
        nodes.add()
        report = Build(nodes.address, model_path, source, tmp_path / "index").report()
    assert report["recorded"] >= 10 * 25
    check_whole(tmp_path / "index")


@pytest.mark.cluster
def test_readers_see_whole_versions_while_a_cluster_builds(model_path, source, tmp_path):
    index, changed = tmp_path / "index", tmp_path / "docs"
    write_jsonl(changed / "all.jsonl", [record(k, f"another text {k}") for k in range(DOCUMENTS)])
    with Nodes.start(2) as nodes:
        Build(nodes.address, model_path, source, index).report()
        build, seen = Build(nodes.address, model_path, changed, index), []
        while build.process.poll() is None:
            seen.append(sum(text.startswith("another") for text in stored(index)["text"].to_pylist()))
        build.report()
    assert len(seen) > 20
    assert set(seen) <= {0, DOCUMENTS}
    assert len(stored(index)) == DOCUMENTS


@pytest.mark.cluster
@pytest.mark.skipif(server_command() is None, reason="moto_server is not there: make .venv-s3/.installed")
@pytest.mark.parametrize("fault", ["worker", "node", "driver"])
def test_faults_with_everything_in_an_object_store(fault, model_path, source, monkeypatch):
    with object_store("0.0.0.0") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        system, bucket = FileSystem.from_uri(store.uri("docs"))
        copy_files(str(source), bucket, destination_filesystem=system)

        def environment(host):
            return {**store.environment_at(host), **quick_to_notice(host)}

        with Nodes.start(2, environment=environment) as nodes:
            index = store.uri("index")
            build = Build(nodes.address, model_path, store.uri("docs"), index)
            build.wait_for_pieces(10)
            if fault == "worker":
                os.kill(nodes.workers(1, "MapWorker")[0], signal.SIGKILL)
            elif fault == "node":
                nodes.kill(1)
            else:
                build.kill()
                time.sleep(5)
                build = Build(nodes.address, model_path, store.uri("docs"), index, "resume=yes")
            assert build.report()["documents"] == DOCUMENTS
        check_whole(index)


@pytest.mark.cluster
def test_a_killed_driver(model_path, source, tmp_path):
    with Nodes.start(2) as nodes:
        build = Build(nodes.address, model_path, source, tmp_path / "index")
        build.wait_for_pieces(20)
        build.kill()
        time.sleep(5)  # its workers may finish what they were doing
        refused = Build(nodes.address, model_path, source, tmp_path / "index")
        assert "--resume" in refused.process.communicate(timeout=60)[1]
        report = Build(nodes.address, model_path, source, tmp_path / "index", "resume=yes").report()
    assert report["recorded"] >= 20 * 25
    check_whole(tmp_path / "index")


@pytest.mark.cluster
def test_the_whole_cluster_dies_and_another_goes_on(model_path, source, tmp_path):
    with Nodes.start(1) as nodes:
        build = Build(nodes.address, model_path, source, tmp_path / "index")
        build.wait_for_pieces(20)
        nodes.kill(0)
        nodes.kill(1)
        build.kill()
    with Nodes.start(1) as nodes:
        report = Build(nodes.address, model_path, source, tmp_path / "index", "resume=yes").report()
    assert report["recorded"] >= 20 * 25
    check_whole(tmp_path / "index")


@pytest.mark.cluster
def test_a_full_disk(model_path, source, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        with Nodes.start(2) as nodes:
            build = Build(nodes.address, model_path, source, disk / "index")
            _, errors = build.process.communicate(timeout=240)
            assert build.process.returncode == 1
            assert "StorageError" in errors
            assert "No space left" in errors
            subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
            report = Build(nodes.address, model_path, source, disk / "index", "resume=yes").report()
        assert 0 < report["recorded"] < DOCUMENTS
        check_whole(disk / "index")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.cluster
def test_nodes_with_another_version_are_refused(model_path, source, tmp_path):
    package = Path(routerretriever.__file__).parent
    other = shutil.copytree(package, tmp_path / "other" / "routerretriever")
    init = (other / "version.py").read_text()
    (other / "version.py").write_text(init.replace(routerretriever.__version__, "0.0.7"))
    with Nodes.start(1, environment=lambda host: {"PYTHONPATH": str(other.parent)}) as nodes:
        build = Build(nodes.address, model_path, source, tmp_path / "index")
        errors = build.process.communicate(timeout=120)[1]
    assert (
        f"{nodes.ip(1)} has routerretriever 0.0.7, this machine has {routerretriever.__version__}" in errors
    )


def test_no_cluster_there(model_path, source, tmp_path):
    build = Build("127.0.0.1:1", model_path, source, tmp_path / "index")
    _, errors = build.process.communicate(timeout=120)
    assert "There is no Ray cluster at '127.0.0.1:1'" in errors


@pytest.mark.cluster
def test_an_index_built_and_searched_by_two_nodes(model_path, tmp_path):
    with Nodes.start(2) as nodes:
        done = subprocess.run(
            [sys.executable, str(SEARCH_DRIVER), nodes.address, str(model_path), str(tmp_path / "index")],
            capture_output=True,
            text=True,
            timeout=400,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("say "))[4:])
    for kind, row in found.items():
        assert (row["kind"], row["present"], row["reason"]) == (kind, kind, "asked for")
        assert row["fresh"] == "d20000"
        for name in ("all", "few", "data"):
            assert row[name]["same"], (kind, name)
            assert row[name]["recall"] > 0.95
            assert row[name]["k"] == 10
            assert row[name]["hits"]
