"""Fixtures of all tests, and what must be set before any library is imported."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

# Before any library reads them: no test may depend on a hub or report to anyone, and tiny models want one thread.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
# A shell's background job ignores Ctrl-C and hands that on; commands that tests interrupt must heed it.
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from large import is_large

DATA = Path(os.environ.get("ROUTERRETRIEVER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_ignore_collect(collection_path, config):
    """Leave out what ``-m "not slow"`` would deselect and could not even import."""
    return True if "not slow" in config.option.markexpr and is_large(collection_path) else None


def pytest_itemcollected(item):
    """Whatever needs large packages is slow."""
    if is_large(item.path):
        item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory):
    """What is made for many tests has a cache of its own."""
    os.environ["ROUTERRETRIEVER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    """No test sees another's embeddings, checkpoints, or those of the person running it."""
    monkeypatch.setenv("ROUTERRETRIEVER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def data() -> Path:
    """Real collections, for tests marked ``real``."""
    if not DATA.is_dir():
        pytest.skip(f"the real collections are not at {DATA}")
    return DATA


# Imported inside these fixtures, since the process that hands out the tests needs none of it.


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny random BERT."""
    from tiny import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture
def make_collection(tmp_path):
    """See :func:`tiny.collection_maker`."""
    from tiny import collection_maker

    return collection_maker(tmp_path)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A folder with ``model`` and ``index``; copied by those who change it."""
    from serving import build

    return build(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def adapter_files(built, tmp_path_factory):
    """One more expert, as plain PEFT writes it."""
    from serving import save_one_more_expert

    return save_one_more_expert(built, tmp_path_factory.mktemp("delta"))


@pytest.fixture(scope="module")
def client(built):
    """A server that only reads."""
    from serving import only_reading, running, wait_until_ready

    with running(only_reading(built)) as found:
        yield wait_until_ready(found)


@pytest.fixture
def own(built, tmp_path):
    """Settings of a server with a model and an index of its own, both kinds of keys set."""
    from serving import with_keys

    return with_keys(built, tmp_path)


@pytest.fixture
def admin(own):
    """A server that may be changed; the client has the admin key."""
    from serving import ADMIN_KEY, running, wait_until_ready

    with running(own) as found:
        found.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        yield wait_until_ready(found)


@pytest.fixture
def s3(monkeypatch):
    """A bucket that Lance and pyarrow reach by ``s3://`` without being told anything."""
    from object_store import object_store, server_command

    if server_command() is None:
        pytest.skip("moto_server is not there: make .venv-s3/.installed")
    with object_store() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        yield store
