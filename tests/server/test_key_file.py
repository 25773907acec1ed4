"""The file of keys with scopes: what is understood, and what is refused by name."""

import hashlib
import json

import pytest
from serving import ADMIN_KEY, API_KEY, running
from typer.testing import CliRunner

from routerretriever.cli.app import app
from routerretriever.errors import ServerError
from routerretriever.routing.scope import RoutingScope
from routerretriever.server import Settings, check_settings, read_key_file
from routerretriever.server.access import Right
from routerretriever.server.keyring import Keyring

SECRET = "a-secret-of-the-red-team"
GOOD = f"""
[[key]]
name = "red"
secret = "{SECRET}"
collections = ["alpha"]
new_collections = ["soon"]
experts = ["alpha"]
new_experts = ["later"]
write = ["documents", "feedback"]

[[key]]
name = "all"
sha256 = "{hashlib.sha256(b"another-secret-of-all").hexdigest()}"
collections = "*"
experts = "*"

[[key]]
name = "guest"
secret = "a-secret-of-the-guests"
collections = ["alpha", "dated"]
experts = []
filter = {{ draft = true, year = {{ gte = 1990 }} }}
"""


def written(folder, text, name="keys.toml"):
    (folder / name).write_text(text)
    return folder / name


def test_a_key_has_a_scope_and_rights(tmp_path):
    red, everything, guest = read_key_file(written(tmp_path, GOOD))
    assert red.access.name == "red" and red.digest == hashlib.sha256(SECRET.encode()).digest()
    assert red.access.rights == {Right.READ, Right.DOCUMENTS, Right.FEEDBACK}
    assert red.access.scope == RoutingScope(frozenset({"alpha", "later"}), frozenset({"alpha", "soon"}))
    assert (red.experts, red.collections) == (("alpha",), ("alpha",))
    assert everything.access.scope is None and everything.access.rights == {Right.READ}
    assert guest.access.where({"year": 1999}) == {
        "and": [
            {"collection": {"in": ["alpha", "dated"]}},
            {"draft": True, "year": {"gte": 1990}},
            {"year": 1999},
        ]
    }
    assert SECRET not in repr((red, everything, guest))


def test_json_says_the_same(tmp_path):
    keys = [{"name": "red", "secret": SECRET, "collections": ["alpha"], "experts": "*"}]
    (found,) = read_key_file(written(tmp_path, json.dumps({"key": keys}), "keys.json"))
    assert found.access.scope == RoutingScope(None, frozenset({"alpha"}))


def entry(**changes):
    lines = {"name": '"red"', "secret": f'"{SECRET}"', "collections": '["alpha"]', "experts": '["alpha"]'}
    lines |= changes
    return "[[key]]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items() if value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (entry(colections='["alpha"]'), "key 1, line 6: there is no setting 'colections'"),
        (entry() + entry(name='"b"', secret='"short"'), "key 2, line 6: 'secret' needs 16 or more ASCII"),
        (entry(collections=None), "key 1, line 1: 'collections' is missing"),
        (entry(experts='"alpha"'), "key 1, line 5: 'experts' must be a list of names, or \"\\*\" for all"),
        (entry(experts="[1]"), "key 1, line 5: 'experts' must be a list of names"),
        (entry(secret=None), "give either 'secret' or 'sha256'"),
        (entry(sha256=f'"{"0" * 64}"'), "give either 'secret' or 'sha256'"),
        (entry(secret=None, sha256='"abc"'), "'sha256' must be 64 hexadecimal digits"),
        (entry(write='["everything"]'), "key 1, line 6: 'write.0' should be 'documents'"),
        (entry(experts='"*"', new_experts='["x"]'), "'experts' is \"\\*\", so 'new_experts' adds nothing"),
        (entry(filter="{ draft = false }", write='["documents"]'), "with a 'filter' cannot write documents"),
        (entry() + entry(), "key 2, line 6: its name is that of another key"),
        (entry() + entry(name='"b"'), "key 2, line 6: its secret is that of another key"),
        ("", "'key' is missing"),
        ("keys = []", "there is no setting 'keys'|'key' is missing"),
        ("[[key]", "not valid TOML"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(ServerError, match=said) as caught:
        read_key_file(path)
    assert str(path) in str(caught.value) and SECRET not in str(caught.value)


def test_a_file_that_is_not_there_or_no_json(tmp_path):
    with pytest.raises(ServerError, match="cannot be read"):
        read_key_file(tmp_path / "nowhere.toml")
    with pytest.raises(ServerError, match="not valid JSON"):
        read_key_file(written(tmp_path, "{", "keys.json"))


def test_a_keyring_knows_every_kind_of_key(tmp_path, built):
    keys = read_key_file(written(tmp_path, GOOD))
    ring = Keyring(Settings(model=built / "model", api_keys=(API_KEY,), admin_keys=(ADMIN_KEY,), keys=keys))
    assert ring.access(SECRET) is keys[0].access
    assert ring.access(ADMIN_KEY).rights == set(Right) and ring.access(API_KEY).scope is None
    assert ring.access("") is None and ring.access(SECRET[:-1]) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experts": '["alpha", "nobody"]'}, "the key 'red' may use the expert 'nobody'.*alpha, beta, gamma"),
        ({"collections": '["nothing"]'}, "the key 'red' may use the collection 'nothing'.*new_collections"),
        ({"filter": '{ colour = "red" }'}, "filter that cannot be used: There is no field 'colour'"),
        ({"filter": "{ year = { like = 1 } }"}, "filter that cannot be used: There is no operator 'like'"),
        ({"filter": '{ year = "long ago" }'}, "filter that cannot be used: The field 'year'"),
    ],
)
def test_a_scope_that_names_nothing_is_refused_before_the_server_listens(built, tmp_path, changes, said):
    keys = read_key_file(written(tmp_path, entry(**changes)))
    settings = Settings(model=built / "model", index=str(built / "index"), keys=keys)
    with pytest.raises(ServerError, match=said):
        check_settings(settings)
    arguments = ["serve", str(settings.model), "--index", settings.index]
    done = CliRunner().invoke(app, [*arguments, "--keys", str(tmp_path / "keys.toml")])
    assert done.exit_code == 1 and "http://" not in done.output
    assert "keys.toml" in done.output

    # Whoever starts the application without the command is told by the log: those who ask show no key.
    with running(settings) as client:
        while client.engine.failure == "":
            pass
        answer = client.get("/ready")
        assert answer.status_code == 503 and "log" in answer.json()["error"]["message"]
        assert "nobody" not in answer.text and "alpha" not in answer.text


def test_names_that_come_later_are_listed_apart(built, tmp_path):
    keys = read_key_file(written(tmp_path, entry(new_experts='["x"]', new_collections='["y"]')))
    check_settings(Settings(model=built / "model", index=str(built / "index"), keys=keys))
    without_index = read_key_file(written(tmp_path, entry(filter="{ draft = false }")))
    with pytest.raises(ServerError, match="has a filter, but there is no index"):
        check_settings(Settings(model=built / "model", keys=without_index))


def test_an_open_address_is_locked_by_a_key_file(tmp_path, built):
    keys = read_key_file(written(tmp_path, entry()))
    assert Settings(model=built / "model", host="0.0.0.0", keys=keys).is_locked
