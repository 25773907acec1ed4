"""Any JSON may be posted as documents: what is accepted comes back, the rest is named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import IDS, JSON, TEXT, WILD, tried
from serving import ADMIN_KEY, API_KEY, running, wait_until_ready, with_keys

NAMES = st.sampled_from(["year", "tags", "half", "é x", "_x", "a.b", "and", "text", "\ud800", ""])
FIELDS = st.dictionaries(NAMES, JSON, max_size=3)
ENTRIES = st.fixed_dictionaries(
    {"id": IDS | WILD, "text": TEXT | WILD}, optional={"title": TEXT | JSON, "metadata": FIELDS | JSON}
)


@pytest.fixture(scope="module")
def served(built, tmp_path_factory):
    with running(with_keys(built, tmp_path_factory.mktemp("posted"))) as client:
        yield wait_until_ready(client)


@tried(25)
@given(entry=ENTRIES, collection=TEXT)
def test_any_document_is_stored_or_refused_by_name(served, entry, collection):
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    body = {"collection": collection, "documents": [entry]}
    of_json = headers | {"Content-Type": "application/json"}
    answer = served.post("/v1/documents", content=as_json(body), headers=of_json)
    assert answer.status_code in (200, 400, 422), answer.text
    if answer.status_code != 200:
        message = answer.json()["error"]["message"]
        assert message and not message.startswith("The body")
        return
    condition = {"collection": collection, "id": entry["id"]}
    if "\0" not in collection + entry["id"]:
        search = {"query": "word1", "filter": condition}
        found = served.post("/v1/search", json=search, headers={"Authorization": f"Bearer {API_KEY}"})
        (hit,) = found.json()["results"][0]["hits"]
        assert (hit["id"], hit["text"], hit["title"]) == (
            entry["id"],
            entry["text"],
            entry.get("title") or "",
        )
        given_fields = entry.get("metadata") or {}
        assert hit["metadata"] == {name: value for name, value in given_fields.items() if value is not None}
    deleted = served.request(
        "DELETE", "/v1/documents", json={"collection": collection, "ids": [entry["id"]]}, headers=headers
    )
    assert deleted.json()["deleted"] == 1


def as_json(body):
    """JSON with escapes alone, which spells halves of surrogate pairs, too."""

    return json.dumps(body).encode()
