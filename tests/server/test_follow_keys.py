"""Keys that come and go while the server runs."""

import asyncio
import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
from clients import eventually
from serving import running, wait_until_ready

from routerretriever.server import Settings, read_key_file
from routerretriever.server.follow_keys import FollowedKeys

RED, BLUE = "the-key-of-team-red", "the-key-of-team-blue"


def entry(name, secret, **changes):
    fields = {"collections": '"*"', "experts": '"*"', **changes}
    lines = "".join(f"{field} = {value}\n" for field, value in fields.items())
    return f'[[key]]\nname = "{name}"\nsecret = "{secret}"\n{lines}\n'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(entry("red", RED))
    return path


@pytest.fixture
def served(built, file):
    settings = Settings(
        model=built / "model",
        index=str(built / "index"),
        keys=read_key_file(file),
        key_file=file,
        follow_seconds=0.05,
    )
    with running(settings) as client:
        client.headers["Authorization"] = f"Bearer {RED}"
        yield wait_until_ready(client)


def status(client, key):
    return client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code


def replaced(file, text):
    """Write as editors do: a new file takes the place of the old one."""
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(file)


def test_a_key_is_added_and_another_revoked(served, file):
    assert (status(served, RED), status(served, BLUE)) == (200, 401)
    replaced(file, entry("red", RED) + entry("blue", BLUE))
    eventually(lambda: status(served, BLUE) == 200)
    replaced(file, entry("blue", BLUE))
    eventually(lambda: status(served, RED) == 401)
    assert status(served, BLUE) == 200


def test_the_scope_of_a_key_changes(served, file):
    asked = {"query": "word1", "expert": "alpha"}
    assert served.post("/v1/search", json=asked).status_code == 200
    replaced(file, entry("red", RED, experts="[]"))
    eventually(lambda: served.post("/v1/search", json=asked).status_code != 200)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[key]", "is not valid TOML"),
        (entry("red", "short"), "needs 16 or more"),
        (entry("blue", BLUE, experts='["nobody"]'), "may use the expert 'nobody'"),
        ("", "'key' is missing"),
    ],
)
def test_a_file_that_cannot_be_used_changes_nothing(served, file, caplog, text, message):
    with caplog.at_level(logging.ERROR, "routerretriever.server"):
        replaced(file, text)
        eventually(lambda: message in caplog.text)
        assert (status(served, RED), status(served, BLUE)) == (200, 401)
        replaced(file, entry("blue", BLUE))
        eventually(lambda: status(served, BLUE) == 200)
    assert caplog.text.count("cannot be used") == 1, "it is logged once"


def test_a_file_that_is_gone_leaves_the_keys(served, file, caplog):
    with caplog.at_level(logging.ERROR, "routerretriever.server"):
        file.unlink()
        eventually(lambda: "is gone" in caplog.text)
    assert status(served, RED) == 200
    file.write_text(entry("blue", BLUE))
    eventually(lambda: status(served, RED) == 401)


def test_a_file_that_is_being_written_is_not_taken(tmp_path, file):
    taken = []
    keyring = SimpleNamespace(take=taken.append)
    keys = FollowedKeys(file, keyring, lambda keys: None)

    def look():
        asyncio.run(keys.follow())
        return len(taken)

    assert (look(), look()) == (1, 1)
    whole = entry("red", RED, filter="{ draft = false }")
    file.write_text(whole[: whole.index("filter")])  # so far a key that sees everything
    assert look() == 1
    file.write_text(whole)
    assert (look(), look(), look()) == (1, 2, 2)
    assert taken[-1][0].access.filter == {"draft": False}


def test_a_change_while_the_server_loads_is_seen(built, file):
    before = Settings(model=built / "model", keys=read_key_file(file), key_file=file, follow_seconds=0.05)
    file.write_text(entry("blue", BLUE))
    with running(replace(before, index=str(built / "index"))) as client:
        client.headers["Authorization"] = f"Bearer {BLUE}"
        wait_until_ready(client)
        eventually(lambda: status(client, BLUE) == 200)
        assert status(client, RED) == 401
