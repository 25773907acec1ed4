import json
import math
import shlex
from dataclasses import replace

import ir_measures
import numpy as np
import pytest
from ir_measures import nDCG
from typer.testing import CliRunner

from routerretriever import Index, RouterRetriever
from routerretriever.cli.app import app
from routerretriever.errors import FeedbackError, FormatError, LibraryError
from routerretriever.feedback import FeedbackConfig, apply_feedback, undo_feedback
from routerretriever.feedback.apply import gains_to_apply
from routerretriever.feedback.gains import Evidence, estimate, measure, relevance
from routerretriever.feedback.groups import Group, make_groups
from routerretriever.feedback.log import Event, parse_line, read_log
from routerretriever.feedback.report import commands, summary, to_dict, write_report
from routerretriever.routing.abstention import PilotSpace
from routerretriever.storage.history import History

CLICKED = FeedbackConfig(on_error="skip")


@pytest.fixture
def model(built):
    return RouterRetriever.from_pretrained(built / "model", device="cpu")


@pytest.fixture
def index(built, model):
    return Index.open(built / "index", model)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def unfamiliar(model, index, expert="gamma", n=60):
    """Queries unlike any pilot; what is shown is the base's choice, and wanted is what ``expert`` puts first of it."""
    rng = np.random.default_rng(0)
    texts = [" ".join(f"word{w}" for w in rng.integers(20, 45, 6)) for _ in range(n)]
    rows = []
    for text, hits in zip(
        texts, index.search_many(texts, 8, expert="base", where="collection = 'alpha'"), strict=True
    ):
        keys = [("alpha", hit.id) for hit in hits]
        found = index.lookup([hit.id for hit in hits])
        vectors = np.stack([found[key] for key in keys])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        best = int(np.argmax(vectors @ model.encode_query([text], expert=expert)[0]))
        shown = [{"id": hit.id, "collection": "alpha"} for hit in hits]
        rows.append({"query": text, "shown": shown, "judged": [{**shown[best], "grade": 1}]})
    return rows


def out_of_domain_model(model):
    """Raise the tiny model's thresholds so that every query is out of domain."""
    library = model.library
    model.set_library(
        replace(library, space=replace(library.space, reject_threshold=5.0, trust_threshold=5.0))
    )
    return model


@pytest.fixture
def log(model, index, tmp_path):
    return write(tmp_path / "log.jsonl", unfamiliar(model, index))


def test_vectors_come_out_of_the_index_by_id(model, index):
    found = index.lookup(["d0", "d1", "nowhere", "y"])
    assert set(found) == {("alpha", "d0"), ("alpha", "d1"), ("beta", "d0"), ("beta", "d1"), ("dated", "y")}
    text = index.search("word1", 1, where="collection = 'alpha' AND id = 'd1'")[0].text
    np.testing.assert_allclose(found["alpha", "d1"], model.encode_document([text])[0], atol=1e-5)
    assert index.lookup(["nowhere"]) == {}
    assert len(index.lookup(f"d{n}" for n in range(60))) == 120


def test_judged_lines_give_the_ndcg_of_ir_measures(model, index, tmp_path):
    rows = unfamiliar(model, index, n=5)
    for row in rows:
        row["judged"] = [{**row["shown"][n], "grade": n} for n in (1, 3)]
    log = read_log(write(tmp_path / "l", rows), model.fingerprint, index.lookup)
    evidence = measure(model, log, cosine=True, eta=1.0, clip=10.0)
    for number, row in enumerate(rows):
        keys = [entry["id"] for entry in row["shown"]]
        found = index.lookup(keys)
        documents = {key: found["alpha", key] / np.linalg.norm(found["alpha", key]) for key in keys}
        scores = {}
        for expert in ("base", *model.experts):
            vector = model.encode_query([row["query"]], expert=expert)[0]
            run = {"q": {key: float(documents[key] @ vector) for key in keys}}
            qrels = {"q": {entry["id"]: entry["grade"] for entry in row["judged"]}}
            scores[expert] = ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10]
        wanted = [scores[expert] - scores["base"] for expert in model.experts]
        np.testing.assert_allclose(evidence.gains[number], wanted, atol=1e-5)
        assert evidence.weights[number] == 1


def test_clicks_are_weighed_by_where_they_stood():
    shown = tuple(("c", f"d{n}") for n in range(20))
    marks = np.zeros(20)
    marks[[0, 3, 19]] = 1
    event = Event(1, 0, "q", shown, marks, judged=False)
    worth, total = relevance(event, eta=1.0, clip=10.0)
    assert (worth[0], worth[3], worth[19], total) == (1, 4, 10, 15)
    assert relevance(event, eta=0.0, clip=10.0)[1] == 3


def test_the_estimator_is_unbiased_where_the_propensities_are_known():
    """A document moves from rank r to the first place; clicks fall 1 / r as often. Noise on any document cancels."""
    rng = np.random.default_rng(0)
    n, m = 4000, 8
    wanted = rng.integers(0, m, n)
    truth = float(
        np.mean([1 - 1 / math.log2(2 + r) for r in wanted])
    )  # the expert puts it first, the base leaves it
    looked = rng.random((n, m)) < 1 / np.arange(1, m + 1)
    clicked = looked & ((np.arange(m) == wanted[:, None]) | (rng.random((n, m)) < 0.1))
    gains, weights = {0.0: np.zeros(n), 1.0: np.zeros(n)}, {0.0: np.zeros(n), 1.0: np.zeros(n)}
    positions = np.arange(m)
    for row in range(n):
        event = Event(
            1, 0, "q", tuple(("c", str(d)) for d in positions), clicked[row].astype(float), judged=False
        )
        moved = np.where(positions == wanted[row], 0, positions + (positions < wanted[row]))
        difference = 1 / np.log2(2.0 + moved) - 1 / np.log2(2.0 + positions)
        for eta in gains:
            worth, weights[eta][row] = relevance(event, eta, 100.0)
            gains[eta][row] = worth @ difference
    kept = (1 - 0.1) / (
        1 + 0.1 * (m - 1)
    )  # clicks on any document add to the weights, and nothing to the gains
    corrected, naive = (gains[eta].sum() / weights[eta].sum() for eta in (1.0, 0.0))
    assert corrected == pytest.approx(kept * truth, rel=0.06)
    assert naive < 0.6 * corrected


def evidence_of(gains, weights, clicks=1):
    n = len(gains)
    embeddings = np.zeros((n, 4), np.float32)
    texts = tuple(f"q{row}" for row in range(n))
    ones = np.ones(n, np.int64)
    return Evidence(
        queries=texts,
        route_embeddings=embeddings,
        gains=np.array(gains, float)[:, None],
        weights=np.array(weights, float),
        clicks=ones * clicks,
        lines=ones,
        events=(),
    )


def test_few_or_doubtful_clicks_turn_nothing():
    rng = np.random.default_rng(0)

    def significant(gains, min_clicks=30):
        return estimate(
            evidence_of(gains, np.ones(len(gains))), np.arange(len(gains)), min_clicks
        ).significant[0]

    assert significant([0.5] * 19, min_clicks=1) == 0  # however large: too few queries
    assert significant([0.5] * 25) == 0  # too few clicks
    assert significant([0.5] * 25, min_clicks=25) == pytest.approx(0.5)
    assert significant([0.0] * 99 + [1.0]) == 0  # one query alone
    assert significant(rng.normal(0, 0.3, 200)) == 0
    assert significant([0.005] * 500) == 0  # sure, but below what the choice of documents can feign
    for mean in (0.1, -0.1):
        gains = rng.normal(mean, 0.3, 500)
        assert significant(gains) == pytest.approx(
            gains.mean() - gains.var(ddof=1) / len(gains) / gains.mean()
        )


def test_repeating_a_query_adds_no_evidence(model, index, tmp_path):
    row = unfamiliar(model, index, n=1)[0]
    report = apply_feedback(out_of_domain_model(model), write(tmp_path / "l", [row] * 100), index)
    assert (report.used, report.groups[0].queries, report.groups[0].queries_with_signal, report.batch) == (
        100,
        1,
        1,
        "",
    )
    assert "too little evidence: 1 queries" in report.groups[0].reason


def test_what_the_pilots_know_is_only_overruled_by_the_opposite():
    def group(far, predicted):
        return Group(name="g", out_of_domain=far, rows=np.arange(3), predicted=np.array(predicted), shown=())

    def found(believed):
        return replace(estimate(evidence_of([0.1], [1]), [0], 1), significant=np.array(believed))

    assert gains_to_apply(group(False, [0.2, -0.1]), found([0.05, 0.0])) is None
    np.testing.assert_array_equal(
        gains_to_apply(group(False, [0.2, -0.1]), found([-0.05, 0.0])), [-0.05, -0.1]
    )
    np.testing.assert_array_equal(gains_to_apply(group(False, [0.2, -0.1]), found([0.1, 0.03])), [0.2, 0.03])
    np.testing.assert_array_equal(gains_to_apply(group(True, [0.2, -0.1]), found([0.0, 0.03])), [0.0, 0.03])
    assert gains_to_apply(group(True, [0.2, -0.1]), found([-0.3, 0.0])) is None


def test_a_log_turns_routes_and_is_taken_back_to_the_last_bit(model, index, log, tmp_path):
    out_of_domain_model(model).save_pretrained(tmp_path / "model")
    before = [(tmp_path / "model" / name).read_bytes() for name in ("pilots.safetensors", "pilots.json")]
    queries = [json.loads(line)["query"] for line in log.read_text().splitlines()]
    report = apply_feedback(model, log, index)
    assert report.out_of_domain_share == 1.0
    assert report.groups[0].significant["gamma"] > 0
    assert report.pilots == len(queries)
    space = model.library.space
    model.set_library(
        replace(model.library, space=replace(space, reject_threshold=-5.0, trust_threshold=-5.0))
    )
    assert {route.expert for route in model.route(queries)} == {"gamma"}
    model.set_library(replace(model.library, space=space))
    model.save_experts(tmp_path / "model")
    again = RouterRetriever.from_pretrained(tmp_path / "model", device="cpu")
    assert [batch.id for batch in again.library.feedback] == [report.batch]
    assert again.library.from_feedback.sum() == report.pilots
    np.testing.assert_array_equal(again.library.weights[again.library.from_feedback], 0.5)
    assert undo_feedback(again) == report.batch
    again.save_experts(tmp_path / "model")
    assert before == [
        (tmp_path / "model" / name).read_bytes() for name in ("pilots.safetensors", "pilots.json")
    ]
    with pytest.raises(FeedbackError, match="Nothing to undo"):
        undo_feedback(again)


def test_a_batch_in_the_middle_is_taken_back_alone(model, index, tmp_path):
    rows = unfamiliar(model, index, n=120)
    out_of_domain_model(model)
    first = apply_feedback(model, write(tmp_path / "1", rows[:60]), index)
    kept = model.library
    second = apply_feedback(model, write(tmp_path / "2", rows[60:]), index)
    assert first.batch != second.batch
    undo_feedback(model, first.batch)
    assert [batch.id for batch in model.library.feedback] == [second.batch]
    assert len(model.library) == len(kept) - first.pilots + second.pilots
    assert not any(first.batch in source for source in model.library.sources)
    with pytest.raises(LibraryError, match=f"Its batches: {second.batch}"):
        undo_feedback(model, first.batch)


def test_a_log_is_applied_once(model, index, log, tmp_path):
    out_of_domain_model(model)
    batch = apply_feedback(model, log, index).batch
    with pytest.raises(FeedbackError, match=f"applied before, as batch {batch}"):
        apply_feedback(model, log, index)
    text = log.read_text()
    longer = tmp_path / "longer"
    longer.write_text(text + "\n")
    with pytest.raises(FeedbackError, match="Every usable line"):
        apply_feedback(model, longer, index)
    write(longer, [*map(json.loads, text.splitlines()), {"query": "word5", "shown": ["y"], "clicked": []}])
    report = apply_feedback(model, longer, index)
    assert (report.used, report.applied_before, report.batch) == (1, 60, "")


def test_a_repeat_in_a_log_that_has_grown_is_new(model, index, tmp_path):
    rows = unfamiliar(model, index)
    out_of_domain_model(model)
    first = apply_feedback(model, write(tmp_path / "1", [*rows, rows[0], rows[0]]), index)
    assert (first.used, first.applied_before) == (62, 0)
    grown = [*rows, rows[0], rows[0], rows[0], rows[1]]
    assert len(model.library.feedback[0].lines) == 62
    second = apply_feedback(model, write(tmp_path / "2", grown), index)
    assert (second.used, second.applied_before) == (2, 62)
    again = [*rows[5:], *rows[:5], rows[0], rows[0]]  # the order does not matter
    with pytest.raises(FeedbackError, match="Every usable line"):
        apply_feedback(model, write(tmp_path / "3", again), index)
    undo_feedback(model)
    assert apply_feedback(model, write(tmp_path / "2", grown), index).used == 64


def test_feedback_outlives_experts_but_not_the_base(model, index, tmp_path):
    line = {"query": "word5", "shown": ["y"], "clicked": [], "fingerprint": model.fingerprint}
    path = write(tmp_path / "l", [line])
    model.remove_expert("beta")
    assert len(read_log(path, model.fingerprint, index.lookup).events) == 1
    model.prompts["document"] = "passage: "
    problems = read_log(path, model.fingerprint, index.lookup).problems
    assert "another base encoder or document prompt" in problems[0].reason


def test_experts_and_collections_come_and_go_beside_feedback(model, index, log, built):
    from routerretriever import Collection

    out_of_domain_model(model)
    plain = model.library
    report = apply_feedback(model, log, index)
    model.build_library([Collection.load(built / "collections" / "beta")])
    assert model.library.from_feedback.sum() == report.pilots
    assert set(model.library.collections()) == {"alpha", "beta"}
    assert model.library.unmeasured() == {}
    with_it = model.library
    undo_feedback(model)
    assert sorted(model.library.examples) == sorted(plain.examples)
    np.testing.assert_array_equal(
        with_it.space.mean, model.library.fitted().space.mean
    )  # clicks do not bend the space
    assert with_it.space.reject_threshold == model.library.fitted().space.reject_threshold
    apply_feedback(model, log, index, replace(CLICKED, weight=1.0))
    model.remove_expert("alpha")
    assert model.library.gains.shape == (len(model.library), 2)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ("[" * 100_000, "expected a JSON object"),
        ('{"query": "\xff', "not UTF-8"),
        ('{"query": "\\ud800", "shown": ["d1"], "clicked": []}', "surrogate"),
        ('{"query": "  ", "shown": ["d1"], "clicked": []}', "no query"),
        ('{"shown": ["d1"], "clicked": []}', "no query"),
        ('{"query": "a", "shown": [], "clicked": []}', "shows 0 documents"),
        ('{"query": "a", "shown": "d1", "clicked": []}', "'shown' is not a list"),
        ('{"query": "a", "shown": ["d1", "d1"], "clicked": []}', "shown twice"),
        ('{"query": "a", "shown": [3], "clicked": []}', "a document is named by"),
        ('{"query": "a", "shown": ["d1"]}', "give either"),
        ('{"query": "a", "shown": ["d1"], "clicked": [], "judged": []}', "give either"),
        ('{"query": "a", "shown": ["d1"], "clicked": ["d2"]}', "'d2' is clicked, but was not shown"),
        (
            '{"query": "a", "shown": ["d1"], "judged": [{"id": "d2", "grade": 1}]}',
            "'d2' is judged, but was not shown",
        ),
        ('{"query": "a", "shown": ["d1"], "judged": [{"id": "d1", "grade": true}]}', "whole 'grade'"),
        ('{"query": "a", "shown": ["d1"], "judged": [{"id": "d1", "grade": -1}]}', "whole 'grade'"),
        ('{"query": "a", "shown": ["d1"], "judged": ["d1"]}', "whole 'grade'"),
        (
            '{"query": "a", "shown": ["d1"], "clicked": [], "fingerprint": "other"}',
            "another base encoder or document prompt",
        ),
    ],
)
def test_a_line_is_refused_for_a_reason(line, reason):
    with pytest.raises(ValueError, match=reason):
        parse_line(line.encode("latin-1"), 1, "own")


def test_lines_are_refused_one_by_one(model, index, tmp_path):
    good = {
        "query": "word5",
        "shown": ["y"],
        "clicked": ["y"],
        "fingerprint": model.fingerprint,
        "time": "now",
    }
    bad = [
        {**good, "shown": ["d1"], "clicked": []},
        {**good, "shown": [{"id": "d1", "collection": "gone"}], "clicked": []},
        {**good, "fingerprint": "x"},
    ]
    path = write(tmp_path / "l", [good, bad[0], bad[1], good, bad[2]])
    with pytest.raises(
        FeedbackError, match="line 2: 'd1' is in 2 collections.*3 of 5 lines.*--on-error skip"
    ):
        apply_feedback(model, path, index)
    report = apply_feedback(model, path, index, CLICKED)
    assert [problem.line for problem in report.problems] == [2, 3, 5]
    assert "no document 'd1' of 'gone'" in report.problems[1].reason
    assert (report.lines, report.used) == (5, 2)
    with pytest.raises(FeedbackError, match="No line of .* can be used; the first fault is in line 1"):
        apply_feedback(model, write(tmp_path / "l", bad), index, CLICKED)


def test_what_cannot_be_learnt_from_is_refused(model, index, tmp_path, checkpoint, log):
    with pytest.raises(FeedbackError, match="is empty. A line of a log looks like"):
        apply_feedback(model, write(tmp_path / "empty", []), index)
    with pytest.raises(FeedbackError, match="cannot be read"):
        apply_feedback(model, tmp_path / "nowhere", index)
    with pytest.raises(LibraryError, match="routerretriever library MODEL"):
        apply_feedback(RouterRetriever.create(str(checkpoint), device="cpu"), log, index)
    with pytest.raises(FeedbackError, match="'on_error' should be 'stop' or 'skip', and is 'ignore'"):
        FeedbackConfig(on_error="ignore")


def test_an_older_version_refuses_a_library_with_feedback(model, index, log, tmp_path, monkeypatch):
    apply_feedback(out_of_domain_model(model), log, index)
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("routerretriever.routing.pilot_files.LIBRARY_FORMAT", 1)
    with pytest.raises((LibraryError, FormatError), match="Upgrade routerretriever"):
        RouterRetriever.from_pretrained(tmp_path / "model", device="cpu")


def test_the_report_says_how_and_where(model, index, tmp_path, log):
    rows = unfamiliar(model, index, n=30)
    for row in rows:
        row["clicked"] = [row.pop("judged")[0]["id"]]
        row["query"] += " <b>"
    path = write(tmp_path / "clicks", rows)
    report = apply_feedback(out_of_domain_model(model), path, index, FeedbackConfig(min_clicks=1000))
    assert "Joachims" in report.estimator
    content = to_dict(report, "my-router")
    assert content["groups"][0]["commands"][0] == (
        "routerretriever synthesize DOCUMENTS --out alpha-made --retriever my-router"
    )
    page = write_report(report, tmp_path / "out", model="my-router").read_text()
    assert "You need an expert here" in page
    assert "the files that the collection &#39;alpha&#39; was indexed from" in page
    assert "Do not rely on gains on generated queries" in page
    assert "&lt;b&gt;" in page and " <b></li>" not in page
    assert json.loads((tmp_path / "out" / "feedback.json").read_text())["out_of_domain_share"] == 1.0
    naive = apply_feedback(model, path, index, FeedbackConfig(position_bias=0.0, min_clicks=1000))
    assert "NOT corrected" in naive.estimator
    assert "no position bias" in apply_feedback(model, log, index).estimator


def test_too_few_far_queries_tell_nothing(model, index, tmp_path):
    rows = unfamiliar(model, index, n=20)
    for row in rows:
        row["clicked"] = [row.pop("judged")[0]["id"]]
    out_of_domain_model(model)
    few = apply_feedback(model, write(tmp_path / "few", rows[1:] * 3), index)  # 57 lines, 19 queries
    assert to_dict(few, "m")["groups"][0]["commands"] == ()
    assert "Too few queries to tell" in " ".join(summary(few)) and "out-of-domain-1 (19, such as" in " ".join(
        summary(few)
    )
    page = write_report(few, tmp_path / "out", model="m").read_text()
    assert "You need an expert" not in page and "Too few queries to tell" in page
    enough = apply_feedback(model, write(tmp_path / "enough", rows), index)
    assert len(to_dict(enough, "m")["groups"][0]["commands"]) == 3
    assert "Too few" not in " ".join(summary(enough))


def test_the_commands_of_the_report_run(model, index, tmp_path, monkeypatch):
    """With the placeholder filled in; neither a shell nor an expert's name takes every collection's name."""
    monkeypatch.chdir(tmp_path)
    model.save_pretrained(tmp_path / "my router")
    rows = unfamiliar(model, index, n=20)
    report = apply_feedback(
        out_of_domain_model(model), write(tmp_path / "l", rows), index, FeedbackConfig(min_clicks=99)
    )
    (group,) = report.groups
    group = replace(group, shown=("/help desk", *group.shown))
    rng = np.random.default_rng(0)
    texts = [" ".join(f"word{w}" for w in rng.integers(0, 200, 40)) for _ in range(60)]
    documents = write(
        tmp_path / "d.jsonl", [{"_id": str(row), "text": text} for row, text in enumerate(texts)]
    )
    for command in commands(group, "my router"):
        words = [str(documents) if word == "DOCUMENTS" else word for word in shlex.split(command)]
        extra = {"synthesize": ["--queries", "300"], "train": ["--epochs", "1", "--force"], "library": []}[
            words[1]
        ]
        result = CliRunner().invoke(app, [*words[1:], *extra])
        assert result.exit_code == 0, (command, result.output)
    assert (
        "help-desk-made"
        in RouterRetriever.from_pretrained(tmp_path / "my router", device="cpu").library.collections()
    )


def test_near_and_far_traffic_is_told_apart_by_lines(model, index, tmp_path):
    """The library's own limit: far is what the router abstains from, and a share is one of lines."""
    library = model.library
    known = {
        text: name
        for text, name, ok in zip(library.examples, library.sources, library.measured, strict=True)
        if ok
    }
    rows = [{"query": query, "shown": ["y"], "clicked": []} for query in known]
    others = unfamiliar(model, index, n=40)
    rows += others + others + others
    path = write(tmp_path / "log", rows)
    report = apply_feedback(model, path, index)
    abstained = {
        route.query for route in model.route(list({row["query"] for row in rows})) if route.abstained
    }
    strange = {row["query"] for row in others} & abstained
    assert len(strange) > 10 and len(set(known) - abstained) > 10
    far_lines = sum(row["query"] in abstained for row in rows)
    assert 0.2 < report.out_of_domain_share < 0.8
    assert report.out_of_domain_share == pytest.approx(far_lines / len(rows))
    assert sum(group.share for group in report.groups) == pytest.approx(1)
    log = read_log(path, model.fingerprint, index.lookup)
    evidence = measure(model, log, cosine=True, eta=1.0, clip=10.0)
    groups = make_groups(model.state.required_policy(), evidence)
    members = {group.name: [evidence.queries[row] for row in group.rows] for group in groups}
    assert {query for group in groups if group.out_of_domain for query in members[group.name]} == abstained
    assert {group.name for group in groups if not group.out_of_domain} <= {"alpha", "beta"}
    placed = [
        (name, known[query])
        for name in ("alpha", "beta")
        for query in members.get(name, ())
        if query in known
    ]
    assert np.mean([name == own for name, own in placed]) > 0.8


def far_evidence(model, sizes, shown=("alpha",)):
    """Queries in as many directions as there are sizes, by turns shown documents of the collections."""
    model.set_library(replace(model.library, space=PilotSpace.plain(len(model.library), 32)))
    out_of_domain_model(model)
    rng = np.random.default_rng(0)
    points = np.concatenate(
        [np.eye(32)[topic] * 6 + rng.normal(size=(n, 32)) for topic, n in enumerate(sizes)]
    )
    n, events = len(points), []
    for row in range(n):
        events.append(
            (Event(row, row, f"q{row}", ((shown[row % len(shown)], "d"),), np.ones(1), judged=False),)
        )
    ones = np.ones(n, np.int64)
    texts = tuple(f"q{row}" for row in range(n))
    return Evidence(
        queries=texts,
        route_embeddings=points.astype(np.float32),
        gains=np.zeros((n, 3)),
        weights=np.ones(n),
        clicks=ones,
        lines=ones,
        events=tuple(events),
    )


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ([150], [150]),  # one topic is not cut up
        ([60, 90], [90, 60]),
        ([50, 51], [51, 50]),
        ([45, 90], [135]),  # too small to be believed
        ([80, 70, 60], [80, 70, 60]),
    ],
)
def test_far_queries_are_divided_by_topic(model, sizes, found):
    evidence = far_evidence(model, sizes)
    groups = make_groups(model.state.required_policy(), evidence)
    assert [(group.name, len(group.rows)) for group in groups] == [
        (f"out-of-domain-{n}", k) for n, k in enumerate(found, start=1)
    ]
    topics = np.repeat(np.arange(len(sizes)), sizes)
    if len(found) == len(sizes):
        assert all(len(set(topics[group.rows])) == 1 for group in groups)


def test_large_topics_and_other_collections_are_divided_too(model):
    policy = out_of_domain_model(model).state.required_policy()
    (one,) = make_groups(policy, far_evidence(model, [799]))
    assert len(one.rows) == 799
    policy = model.state.required_policy()
    large = make_groups(policy, far_evidence(model, [1200]))
    assert len(large) == 3 and sum(len(group.rows) for group in large) == 1200
    assert sorted(np.concatenate([group.rows for group in large])) == list(range(1200))
    by_collection = make_groups(policy, far_evidence(model, [100], ("alpha", "beta")))
    assert sorted(group.shown for group in by_collection) == [("alpha",), ("beta",)]


def test_equal_queries_are_one_topic(model):
    evidence = far_evidence(model, [60])
    evidence = replace(evidence, route_embeddings=np.tile(evidence.route_embeddings[:1], (60, 1)))
    assert len(make_groups(model.state.required_policy(), evidence)) == 1


def test_of_a_long_log_the_last_lines_are_used(model, index, tmp_path, monkeypatch):
    monkeypatch.setattr("routerretriever.feedback.apply.MAX_LINES", 40)
    rows = unfamiliar(model, index, n=70)
    out_of_domain_model(model)
    report = apply_feedback(model, write(tmp_path / "1", rows), index)
    assert (report.lines, report.used, report.too_old, report.applied_before) == (70, 40, 30, 0)
    assert "30 too old" in summary(report)[0]
    assert set(model.library.examples[-report.pilots :]) == {row["query"] for row in rows[30:]}
    grown = apply_feedback(model, write(tmp_path / "2", [*rows, {**rows[0], "time": "now"}]), index)
    assert (grown.used, grown.too_old, grown.applied_before) == (
        31,
        0,
        40,
    )  # there is room for the old ones now


def test_the_command_line(built, model, index, tmp_path, log):
    out_of_domain_model(model).save_pretrained(tmp_path / "model")

    def run(*arguments, code=0):
        result = CliRunner().invoke(app, ["feedback", str(tmp_path / "model"), *map(str, arguments)])
        assert result.exit_code == code, result.output + str(result.exception)
        return result

    given = (log, "--index", built / "index")
    assert "60 pilots would be added" in run(*given, "--dry-run").stdout
    assert json.loads(run("--list", "--json").stdout) == {"batches": []}
    shown = run(*given, "--out", tmp_path / "out").stdout
    assert "60 pilots added. To undo" in shown
    assert (tmp_path / "out" / "feedback.html").exists()
    (batch,) = json.loads(run("--list", "--json").stdout)["batches"]
    assert (batch["pilots"], batch["lines"]) == (60, 60)
    assert batch["id"] in run("--list").stdout
    assert "applied before" in run(*given, code=1).stderr
    assert json.loads(run("--undo", batch["id"], "--json").stdout)["undone"] == batch["id"]
    _, applied, undone = History(tmp_path / "model").entries
    assert [action["what"] for action in applied.actions] == ["feedback"]
    assert applied.actions[0]["groups"]["out-of-domain-1"]["gamma"] > 0
    assert undone.actions == ({"what": "feedback undone", "batch": batch["id"]},)
    told = CliRunner().invoke(app, ["experts", "log", str(tmp_path / "model")]).stdout
    assert f"learnt from feedback, batch {batch['id']}" in told  # a narrow console breaks the line after this
    assert "(out-of-domain-1: " in told
    assert f"took back feedback batch {batch['id']}" in told
    assert "feedback:" not in told and "forgotten" not in told
    assert "Nothing to undo" in run("--undo", code=1).stderr
    assert "Name the log" in run(log, code=1).stderr
    assert "line 1: no query" in run(write(tmp_path / "bad", [{}]), "--index", built / "index", code=1).stderr
