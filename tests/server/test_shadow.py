"""An expert in the shadow: answers are those without it, and notes say what it would change."""

import json
import queue
import shutil
import time
from collections import Counter
from dataclasses import replace

import pytest
from clients import eventually
from serving import ADMIN_KEY, API_KEY, running, wait_until_ready
from typer.testing import CliRunner

from routerretriever import RouterRetriever, compile_model
from routerretriever.cli.app import app
from routerretriever.errors import ServerError
from routerretriever.index.search import Hit
from routerretriever.server import Settings, check_settings, read_key_file
from routerretriever.server.shadow import compare


@pytest.fixture(scope="module")
def scene(built, tmp_path_factory):
    return made(built, tmp_path_factory.mktemp("scene"), "onnx")


def made(built, root, engine):
    """Settings of a server with a shadow, of one without that expert, and of one that routes to it."""
    for name in ("model", "without"):
        shutil.copytree(built / "model", root / name)
    shutil.copytree(built / "index", root / "index")
    model = RouterRetriever.from_pretrained(root / "model", device="cpu").eval()
    queries = list(dict.fromkeys(model.library.examples))[:24]
    expert, _ = Counter(
        name for name in model.encode_routed(queries).experts if name in model.experts
    ).most_common(1)[0]
    model.remove_expert(expert)
    model.save_experts(root / "without")
    if engine == "onnx":
        compile_model(root / "model")
        compile_model(root / "without")

    whole = Settings(
        model=root / "model",
        index=str(root / "index"),
        api_keys=(API_KEY,),
        admin_keys=(ADMIN_KEY,),
        engine=engine,
    )
    shadow = replace(whole, shadow=expert, shadow_log=root / "shadow.jsonl")
    return expert, queries, shadow, replace(whole, model=root / "without"), whole


def searched(client, queries, **options):
    client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
    answer = client.post("/v1/search", json={"query": queries, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def totals(client):
    return client.get("/v1/shadow").json()


def hits(result):
    return [(hit["collection"], hit["id"]) for hit in result["hits"][:10]]


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_answers_are_those_without_the_expert_and_the_log_says_what_it_would_change(built, tmp_path, engine):
    expert, queries, shadow, without, whole = made(built, tmp_path, engine)
    with running(without) as client:
        wanted = searched(wait_until_ready(client), queries, k=12)
        models = client.get("/v1/models").json()["data"]
        routes = client.post("/v1/route", json={"query": queries}).json()
    with running(whole) as client:
        changed = searched(wait_until_ready(client), queries, k=12)
    theirs = {row["query"]: row for row in changed if row["expert"] == expert}
    assert theirs and len(theirs) < len(queries)

    with running(shadow) as client:
        found = searched(wait_until_ready(client), queries, k=12)
        for row, other in zip(found, wanted, strict=True):
            assert (row["expert"], hits(row)) == (other["expert"], hits(other))
        names = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert names == [model["id"] for model in models] and expert not in names
        assert client.post("/v1/route", json={"query": queries}).json() == routes
        assert expert not in [entry["name"] for entry in client.get("/v1/experts").json()["experts"]]
        pinned = client.post("/v1/search", json={"query": "x", "expert": expert})
        assert pinned.status_code == 404

        eventually(lambda: totals(client)["queries"] == len(queries), 30)
        counted = totals(client)
        scraped = client.get("/metrics").text
    lines = [json.loads(line) for line in shadow.shadow_log.read_text().splitlines()]
    assert shadow.shadow_log.stat().st_mode & 0o777 == 0o600
    assert {line["query"] for line in lines} == set(theirs) and len(lines) == len(theirs)
    before = {row["query"]: row for row in found}
    for line in lines:
        old, new = hits(before[line["query"]]), hits(theirs[line["query"]])
        assert line["shadow"] == expert and line["answered"] == before[line["query"]]["expert"]
        assert line["overlap"] == pytest.approx(len(set(old) & set(new)) / 10)
        assert {(hit["collection"], hit["id"]) for hit in line["came"]} == set(new) - set(old)
        assert {(hit["collection"], hit["id"]) for hit in line["went"]} == set(old) - set(new)
        assert line["first_changed"] == (old[0] != new[0]) and line["changed"] == (old != new)
        for hit in line["came"]:
            assert hit["score"] == pytest.approx(
                theirs[line["query"]]["hits"][hit["rank"] - 1]["score"], abs=1e-4
            )
    assert any(line["changed"] for line in lines)
    assert counted["routed"] == len(lines) and counted["expert"] == expert
    assert counted["changed"] == sum(line["changed"] for line in lines)
    assert counted["mean_overlap"] == pytest.approx(sum(line["overlap"] for line in lines) / len(lines))
    assert counted["dropped"] == counted["failed"] == counted["unlogged"] == 0
    assert f'shadow_queries_total{{outcome="elsewhere"}} {len(queries) - len(lines)}.0' in scraped
    assert f"routerretriever_shadow_overlap_count {len(lines)}.0" in scraped

    # And the command sums the file up.
    arguments = ["shadow", str(shadow.shadow_log)]
    done = CliRunner().invoke(app, [*arguments, "--json", "--examples", "2"])
    assert done.exit_code == 0, done.output
    groups = json.loads(done.stdout)["groups"]
    assert sum(group["queries"] for group in groups) == len(lines)
    assert {group["answered"] for group in groups} == {line["answered"] for line in lines}
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert expert in shown.output and "stay:" in shown.output


def test_only_routed_searches_are_looked_at(scene):
    _, queries, shadow, _, _ = scene
    with running(replace(shadow, shadow_log=None)) as client:
        wait_until_ready(client)
        searched(client, queries[:2], mode="text")
        searched(client, queries[:2], expert="base")
        client.post("/v1/embeddings", json={"input": queries[:2]})
        searched(client, queries[:3])
        eventually(lambda: totals(client)["queries"] == 3, 30)
        time.sleep(0.3)
        assert totals(client)["queries"] == 3


def test_an_expert_that_is_removed_meanwhile_changes_nothing(scene, tmp_path):
    expert, queries, shadow, _, _ = scene
    shutil.copytree(shadow.model, tmp_path / "model")
    with running(replace(shadow, model=tmp_path / "model", shadow_log=None)) as client:
        before = searched(wait_until_ready(client), queries[:4])
        eventually(lambda: totals(client)["queries"] == 4, 30)
        assert client.delete(f"/v1/experts/{expert}").status_code == 200
        routed = totals(client)["routed"]
        after = searched(client, queries[:4])
        assert list(map(hits, after)) == list(map(hits, before))
        eventually(lambda: totals(client)["queries"] == 8, 30)
        assert totals(client)["routed"] == routed and totals(client)["failed"] == 0


def test_what_comes_too_fast_is_dropped_and_counted_and_slows_nothing(scene):
    _, queries, shadow, _, _ = scene
    with running(replace(shadow, shadow_log=None)) as client:
        wait_until_ready(client)
        client.engine.shadow._is_idle = lambda: False  # the server is always busy
        client.engine.shadow._waiting = queue.Queue(3)
        for _ in range(10):
            searched(client, queries, k=1)
        counted = totals(client)
        # One search is being looked at, three wait.
        assert counted["dropped"] in (6 * len(queries), 7 * len(queries)) and counted["routed"] == 0
        assert 'outcome="dropped"' in client.get("/metrics").text
        started = time.monotonic()
    assert time.monotonic() - started < 5  # what waits is not looked at when the server stops


def test_a_log_that_is_full_or_cannot_be_written(scene, tmp_path):
    _, queries, shadow, _, _ = scene
    for limits, path in (
        (replace(shadow.limits, feedback_bytes=10), tmp_path / "full.jsonl"),
        (shadow.limits, tmp_path / "nowhere" / "log.jsonl"),
    ):
        with running(replace(shadow, shadow_log=path, limits=limits)) as client:
            searched(wait_until_ready(client), queries[:12])
            eventually(lambda c=client: totals(c)["queries"] == 12, 30)
            counted = totals(client)
            assert counted["unlogged"] == counted["routed"] > 0 and counted["failed"] == 0


def test_a_key_whose_scope_lacks_the_expert_is_never_routed_to_it(scene, tmp_path):
    expert, queries, shadow, _, _ = scene
    others = [name for name in ("alpha", "beta", "gamma") if name != expert]
    (tmp_path / "keys.toml").write_text(
        f'[[key]]\nname = "team"\nsecret = "a-key-without-the-expert"\ncollections = "*"\n'
        f"experts = {json.dumps(others)}\n"
    )
    keys = read_key_file(tmp_path / "keys.toml")
    with running(replace(shadow, keys=keys, shadow_log=None)) as client:
        wait_until_ready(client)
        headers = {"Authorization": "Bearer a-key-without-the-expert"}
        assert client.post("/v1/search", json={"query": queries}, headers=headers).status_code == 200
        assert client.get("/v1/shadow", headers=headers).status_code == 403
        client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        eventually(lambda: totals(client)["queries"] == len(queries), 30)
        assert totals(client)["routed"] == 0


def test_without_a_shadow_there_is_nothing_to_say(client):
    answer = client.get("/v1/shadow")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "no_shadow"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shadow": "nobody"}, "'nobody' is none. Its experts: alpha, beta, gamma.*experts add"),
        ({"shadow": "some/folder"}, "'some/folder' is none"),
        ({"shadow": "alpha", "index": None}, "there is no index"),
        ({"shadow": "unmeasured"}, "its gain was not measured"),
    ],
)
def test_a_shadow_that_cannot_be_is_refused_by_name(built, tmp_path, changes, said):
    shutil.copytree(built / "model", tmp_path / "model")
    model = RouterRetriever.from_pretrained(tmp_path / "model", device="cpu")
    if changes["shadow"] == "unmeasured":
        model.add_expert("unmeasured", model.state.experts["alpha"])
        model.save_experts(tmp_path / "model")
    settings = replace(Settings(model=tmp_path / "model", index=str(built / "index")), **changes)
    with pytest.raises(ServerError, match=said):
        check_settings(settings)


def test_a_log_needs_an_expert(built, tmp_path):
    with pytest.raises(ServerError, match="--shadow EXPERT"):
        Settings(model=built / "model", shadow_log=tmp_path / "log")


def hit(name, number=0.5):
    return Hit(name, number, "", "", "c")


def test_two_rankings_are_compared():
    same = compare([hit("a"), hit("b")], [hit("a"), hit("b")])
    assert (same.overlap, same.changed, same.came, same.went) == (1.0, False, [], [])
    turned = compare([hit("a"), hit("b")], [hit("b"), hit("a")])
    assert (turned.overlap, turned.changed, turned.first_changed) == (1.0, True, True)
    other = compare([hit("a"), hit("b")], [hit("a"), hit("c", 0.25), hit("d")])
    assert other.overlap == pytest.approx(1 / 3) and not other.first_changed
    assert other.came[0].model_dump() == {"id": "c", "collection": "c", "rank": 2, "score": 0.25}
    assert [each.id for each in other.went] == ["b"]
    assert compare([], []).overlap == 1.0


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "is empty"), ('{"query": "x"}\n', "line 1: overlap: Field required"), ("nonsense\n", "line 1")],
)
def test_a_file_that_is_no_log_of_a_shadow(tmp_path, content, said):
    (tmp_path / "log.jsonl").write_text(content)
    done = CliRunner().invoke(app, ["shadow", str(tmp_path / "log.jsonl")], env={"COLUMNS": "300"})
    assert done.exit_code == 1 and said in done.output.replace("\n", " ")
    assert CliRunner().invoke(app, ["shadow", str(tmp_path / "nowhere")]).exit_code == 1
