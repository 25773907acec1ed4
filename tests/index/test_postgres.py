"""The same index in PostgreSQL: a real server with pgvector."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from postgres import Server
from tiny import make_checkpoint
from typer.testing import CliRunner

from routerretriever import Document, Index, RouterRetriever, SearchParameters
from routerretriever.cli.app import app
from routerretriever.errors import (
    BuildError,
    CollectionError,
    FilterError,
    FingerprintError,
    StorageError,
    VectorIndexError,
)
from routerretriever.index.build.settings import BuildSettings
from routerretriever.index.postgres import vector_index, view
from routerretriever.index.postgres_uri import postgres_uri


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("postgres"))
    yield server
    server.close()


def documents(n=120, start=0):
    return [
        Document(
            f"d{k}",
            f"word{k} word{(k * 7) % 200} word{(k * 31) % 90}",
            f"title{k % 3}" if k % 4 else "",
            {"year": 1990 + k % 10, "share": k / 7, "late": k % 3 == 0, "site": f"Ä'{k % 5}%s"},
        )
        for k in range(start, start + n)
    ]


@pytest.fixture(scope="module")
def lance(model, tmp_path_factory):
    index = Index.create(tmp_path_factory.mktemp("lance") / "index", model)
    index.upsert(documents(), collection="c")
    return index


@pytest.fixture(scope="module")
def same(model, server):
    """The same documents as ``lance`` has; not to be changed."""
    index = Index.create(server.uri(), model)
    index.upsert(documents(), collection="c")
    return index


@pytest.fixture
def index(model, server):
    index = Index.create(server.uri(), model)
    index.upsert(documents(), collection="c")
    return index


CONDITIONS = [
    None,
    {"year": {"gte": 1995}},
    {"site": "Ä'3%s"},
    {"site": {"lt": "Ä'2"}},
    {"share": {"gt": 3.0, "lte": 9}, "late": False},
    {"id": {"in": ["d1", "d2", "d3", "none"]}},
    {"or": [{"title": "title1"}, {"not": {"year": {"in": [1991, 1993]}}}]},
    {"title": {"exists": False}},
    {"collection": "other"},
]


@pytest.mark.parametrize("where", CONDITIONS)
def test_the_nearest_are_those_of_lance(same, lance, where):
    for query in ("word3 word21", "word13", "word50 word61 word7"):
        wanted = lance.search(query, 10, mode="vector", exact=True, where=where)
        found = same.search(query, 10, mode="vector", exact=True, where=where)
        assert [hit.id for hit in found] == [hit.id for hit in wanted]
        np.testing.assert_allclose([h.score for h in found], [h.score for h in wanted], atol=1e-5)
        assert [(h.title, h.text, h.collection, h.metadata) for h in found] == [
            (h.title, h.text, h.collection, h.metadata) for h in wanted
        ]


@pytest.mark.parametrize("where", CONDITIONS)
def test_words_score_as_in_lance(same, lance, where):
    for query in ("word3 word21", "word13", "zap"):
        wanted = {hit.id: hit.score for hit in lance.search(query, 200, mode="text", where=where)}
        found = {hit.id: hit.score for hit in same.search(query, 200, mode="text", where=where)}
        assert found.keys() == wanted.keys()
        # Lance counts words that repeat, and title and text apart.
        np.testing.assert_allclose([found[key] for key in wanted], list(wanted.values()), rtol=0.12)


def test_both_sides_are_fused_by_the_same_code(same, lance):
    for query in ("word3 word21", "word13", "word50 word61 word7"):
        wanted = [hit.id for hit in lance.search(query, 10)]
        found = [hit.id for hit in same.search(query, 10)]
        assert len(set(found) & set(wanted)) >= 9


def test_dot_products(server, checkpoint):
    model = RouterRetriever.create(str(checkpoint), similarity="dot", device="cpu")
    index = Index.create(server.uri(), model)
    index.upsert(documents(20))
    wanted = model.encode_document([d.content for d in documents(20)]) @ model.encode_query(["word3"])[0]
    for kind in ("flat", "hnsw"):
        index.build_index(kind)
        hits = index.search("word3", k=20, mode="vector")
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(wanted)[::-1], rtol=1e-4)


@pytest.mark.parametrize("kind", ["hnsw", "ivf_flat"])
def test_an_approximate_index_finds_what_a_scan_finds(index, kind):
    assert (index.kind.kind, index.is_approximate) == ("flat", False)
    built = index.build_index(kind)
    assert (built.kind, built.reason, built.rows) == (kind, "asked for", 120)
    assert index.kind == built
    for where in CONDITIONS:
        for query in ("word3 word21", "word13"):
            wanted = [hit.id for hit in index.search(query, 10, mode="vector", where=where, exact=True)]
            assert [hit.id for hit in index.search(query, 10, mode="vector", where=where)] == wanted
    index.build_index("flat")
    assert not index.is_approximate


def test_settings_of_a_search():
    assert view.how_to_search(10, SearchParameters(ef=500), filtered=False)["hnsw.ef_search"] == "500"
    assert view.how_to_search(5000, SearchParameters(), filtered=False)["hnsw.ef_search"] == "1000"
    assert view.how_to_search(10, None, filtered=False) == {"enable_indexscan": "off"}


def test_many_documents_get_an_index(model, server, monkeypatch):
    monkeypatch.setattr(vector_index, "EXACT_LIMIT", 100)
    index = Index.create(server.uri(), model)
    index.upsert(documents())
    assert index.kind.kind == "hnsw"
    index.upsert(documents(5, start=500))
    assert index.search("word3", where={"id": "d503"})[0].id == "d503"


def test_upsert_replaces_and_collections_may_share_ids(index):
    assert index.upsert([Document("d1", "word150")], collection="c") == 1
    assert len(index) == 120
    index.upsert([Document("d1", "word160")], collection="other")
    assert len(index) == 121
    hits = index.search("word150 word160", k=200)
    assert {hit.text for hit in hits if hit.id == "d1"} == {"word150", "word160"}
    assert index.search("word160", mode="text")[0].collection == "other"
    assert [hit.metadata for hit in hits if hit.text == "word150"] == [{}]


def test_delete_and_lookup(index, model):
    assert index.delete(["d1", "d2", "nothing", "d'3"], collection="c") == 2
    assert {"d1", "d2"}.isdisjoint(hit.id for hit in index.search("word1", k=200))
    found = index.lookup(["d1", "d5"])
    assert list(found) == [("c", "d5")]
    np.testing.assert_allclose(
        found["c", "d5"], model.encode_document([documents()[5].content])[0], atol=1e-6
    )


def test_an_index_is_opened_by_its_model_alone(index, model, server, tmp_path):
    assert [hit.id for hit in Index.open(index.uri, model).search("word3")] == [
        hit.id for hit in index.search("word3")
    ]
    assert len(Index.create(index.uri, model)) == 120
    other = RouterRetriever.create(str(make_checkpoint(tmp_path / "other", pooling="cls")), device="cpu")
    with pytest.raises(FingerprintError, match="another base encoder"):
        Index.open(index.uri, other)
    with pytest.raises(VectorIndexError, match="There is no index at"):
        Index.open(server.uri(), model)


def test_it_remembers_the_model(model, server, tmp_path):
    model.save(tmp_path / "model")
    index = Index.create(server.uri(), model, model_path=tmp_path / "model")
    index.upsert(documents(5))
    assert Index.open(index.uri).search("word3", k=2)


def test_two_writers_with_new_fields_at_the_same_time(model, server):
    uri = Index.create(server.uri(), model).uri
    writers = [Index.open(uri, model) for _ in range(2)]

    def write(number, name):
        new = {f"both{number}": number, f"own{number}{name}": "x"}
        return writers[name].upsert([Document(f"{number}-{name}", f"word{number}", "", new)])

    with ThreadPoolExecutor(2) as pool:
        for number in range(5):
            assert list(pool.map(write, [number] * 2, range(2))) == [1, 1]
    assert [len(writer) for writer in writers] == [10, 10]
    hits = writers[0].search("word3", k=20, where="both3 = 3 AND own31 = 'x'")
    assert [hit.id for hit in hits] == ["3-1"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (Document("a", "nul \0"), "NUL"),
        (Document("a\0", "x"), "NUL"),
        (Document("a", "x", "", {"site": "\0"}), "NUL"),
        (Document("a", "x", "", {"year": "soon"}), "'year' is str here and int64"),
        (Document("a", "x", "", {"y" * 70: 1}), "63 bytes"),
        (Document("a", "x", "", {"routerretriever_words": 1}), "Rename the field"),
        (Document("a", "x", "", {"vector": 1}), "Rename the field"),
    ],
)
def test_what_cannot_be_stored_is_named_and_nothing_is_written(index, document, message):
    with pytest.raises(CollectionError, match=message):
        index.upsert([Document("new", "word1", "", {"fresh": 1}), document], collection="c")
    assert len(index) == 120
    with pytest.raises(FilterError, match="no field 'fresh'"):
        index.search("word1", where={"fresh": 1})


@pytest.mark.parametrize(
    "text", ["\0", "'", "\\", "a & | ! ( ) <-> :*", "%s %(x)s", "x" * 5000, "the of", "'a':1"]
)
def test_no_sign_in_a_query_is_an_operator(same, text):
    assert same.search(text, mode="text") == []
    assert same.search(f"{text} word13", mode="text")[0].id
    assert same.search(text)


def test_hostile_values_are_only_values(same):
    for value in ("'; DROP TABLE x; --", "%s", "\\", '"', "{}", "$1"):
        assert same.search("word1", where={"site": value}) == []
        assert same.search("word1", where={"site": {"in": [value]}}) == []


def test_sql_conditions_may_not_write(same, server):
    table = postgres_uri(same.uri).table
    assert len(same.search("word1", 200, where="site LIKE '%''3%' -- all of them")) == 24
    for where in ("year >", "nothing = 1", "true); DELETE FROM x; --", f"nextval('{table}') = 1", "%s = 1"):
        with pytest.raises(VectorIndexError, match="PostgreSQL at"):
            same.search("word1", where=where)
    with pytest.raises(VectorIndexError, match="read-only|multiple commands"):
        same.search("word1", where="set_config('x.y', pg_catalog.lo_create(0)::text, false) = 'a'")
    assert len(same) == 120


def test_words_of_other_languages(model, server):
    index = Index.create(server.uri(), model)
    index.upsert([Document("a", "Die Häuser der Stadt"), Document("b", "ein Baum")])
    built = index.build_text_index(language="German")
    assert (built.language, built.tokenizer) == ("German", "simple")
    assert [hit.id for hit in index.search("Haus", mode="text")] == ["a"]
    assert index.describe().text.language == "German"
    index.build_text_index(language="none")
    assert index.search("Haus", mode="text") == []
    with pytest.raises(VectorIndexError, match="splits words itself"):
        index.build_text_index(tokenizer="ngram")
    index.drop_text_index()
    index.upsert([Document("c", "Baum")])
    with pytest.raises(VectorIndexError, match="no text index"):
        index.search("Haus", mode="text")


def test_rare_words_decide_where_many_documents_match(model, server, monkeypatch):
    from routerretriever.index.postgres import words

    monkeypatch.setattr(words, "CANDIDATES", 3)
    index = Index.create(server.uri(), model)
    index.upsert([Document(f"{k}", f"common{' rare' if k in (7, 9) else ''}") for k in range(60)])
    index.refresh()
    hits = index.search("common rare", mode="text")
    assert {hit.id for hit in hits[:2]} == {"7", "9"}
    assert len(hits) == 10  # two are too few, so the common word counts as well


def test_a_document_of_a_megabyte(index):
    text = " ".join(f"unlike{number}" for number in range(150_000))
    index.upsert([Document("long", text)])
    assert [hit.id for hit in index.search("unlike17", mode="text")] == ["long"]


def test_another_base_is_refused_with_the_way_around(index, tmp_path):
    other = RouterRetriever.create(str(make_checkpoint(tmp_path / "other", "mpnet")), device="cpu")
    with pytest.raises(
        VectorIndexError, match="index export MODEL 'postgresql:.*then routerretriever index add"
    ):
        index.migrate(other)
    assert index.describe().migration is None


# -- whole sources ----------------------------------------------------------------------------


def test_a_source_is_compared_with_what_is_there(index):
    changed = [*documents(100), Document("d5", "other", "", {"year": 2000}), Document("new", "word9")]
    del changed[5]
    report = index.add(changed, collection="c")
    assert (report.documents, report.encoded, report.unchanged) == (101, 2, 99)
    assert (report.replaced, report.gone, report.pruned, len(index)) == (1, 20, False, 121)
    report = index.add(changed, collection="c", settings=BuildSettings(prune=True))
    assert (report.encoded, report.gone, len(index)) == (0, 20, 101)


def test_faulty_lines_are_reported(index, tmp_path):
    lines = ['{"_id": "x", "text": "word1"}', "not json", '{"_id": "x", "text": "again"}']
    lines += ['{"_id": "y", "text": "a\\u0000b"}', '{"_id": "z", "text": "word2", "tags": []}']
    (tmp_path / "more.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(CollectionError, match="line 2"):
        index.add(tmp_path / "more.jsonl")
    assert len(index) == 120
    report = index.add(tmp_path / "more.jsonl", settings=BuildSettings(on_error="skip"))
    assert (report.documents, len(report.problems), report.left_out) == (2, 3, ("tags",))
    with pytest.raises(BuildError, match="no folder"):
        index.add(tmp_path / "more.jsonl", settings=BuildSettings(on_error="quarantine"))
    with pytest.raises(BuildError, match="cluster"):
        index.add(tmp_path / "more.jsonl", runner=lambda job, chunks: [])


def test_ids_that_repeat_in_another_chunk(index, monkeypatch):
    from routerretriever.index.build import chunks

    monkeypatch.setattr(chunks, "CHUNK_ROWS", 10)
    with pytest.raises(CollectionError, match="'?its id is in Document 3"):
        index.add([*documents(15, start=500), documents(1, start=502)[0]], collection="c")


# -- a server that goes away -------------------------------------------------------------------


def test_a_server_that_is_not_there(model):
    for uri in (
        "postgresql://nobody@127.0.0.1:1/x?table=t",
        "postgresql://nobody:secret@127.0.0.1:1/x?table=t",
    ):
        with pytest.raises(StorageError, match="did not answer") as raised:
            Index.open(uri, model)
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("postgresql://h/d", "names 0 tables"),
        ("postgresql://h/d?table=a&table=b", "names 2 tables"),
        ("postgresql://h/d?table=", "cannot name a table"),
        ("postgresql://h/d?table=" + "x" * 64, "cannot name a table"),
        ("postgresql://h/d?table=a%00b", "cannot name a table"),
        ("postgresql://h/d?nonsense=1&table=a", "nonsense"),
    ],
)
def test_addresses_that_are_none(model, uri, message):
    with pytest.raises(VectorIndexError, match=message):
        Index.open(uri, model)


def test_connections_that_were_lost_are_made_again(index, server):
    wanted = [hit.id for hit in index.search("word3")]
    server.kill_connections()
    assert [hit.id for hit in index.search("word3")] == wanted


def test_a_write_that_loses_its_server_writes_nothing(index, server, model):
    def encode(texts):
        server.kill_connections()
        return model.encode_document(texts)

    with server.stopped(), pytest.raises(StorageError, match="was not written"):
        index.delete(["d1"], collection="c")
    assert len(index) == 120
    assert index.upsert(documents(10, start=300), encode=encode) == 10

    writer = index._store._writer
    real = writer.delete

    def delete(connection, ids, collection):
        real(connection, ids, collection)
        server.execute("SELECT pg_terminate_backend(%s)", connection.info.backend_pid)
        connection.execute("SELECT 1")

    writer.delete = delete
    with pytest.raises(StorageError, match="was not written"):
        index.delete(["d1"], collection="c")
    assert len(index) == 130


SCRIPT = """
import sys, time
from routerretriever import Document, Index, RouterRetriever
uri, folder = sys.argv[1:]
model = RouterRetriever.from_pretrained(folder, device="cpu")
embed = type(model).embed_texts
def slow(self, texts, **options):
    print("block", flush=True)
    time.sleep(0.5)
    return embed(self, texts, **options)
type(model).embed_texts = slow
from routerretriever.index.build import chunks
chunks.CHUNK_ROWS = 20
from routerretriever.data.document import Document
documents = [Document(f"k{n}", f"word{n % 200}", "", {"n": n}) for n in range(100)]
Index.create(uri, model).add(documents, collection="c")
"""


@pytest.mark.slow
def test_a_build_that_is_killed_ends_the_same(model, server, tmp_path):
    model.save(tmp_path / "model")
    uri = server.uri()
    command = [sys.executable, "-c", SCRIPT, uri, str(tmp_path / "model")]
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
    for _ in range(3):
        killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert len(Index.open(uri, model)) in (20, 40)
    subprocess.run(command, check=True, capture_output=True)
    index = Index.open(uri, model)
    assert len(index) == 100
    assert index.describe().text is not None
    undisturbed = Index.create(server.uri(), model)
    undisturbed.upsert(
        [Document(f"k{n}", f"word{n % 200}", "", {"n": n}) for n in range(100)], collection="c"
    )
    for query in ("word3", "word17 word50"):
        assert index.search(query, 20) == undisturbed.search(query, 20)


def test_one_build_at_a_time(index, model):
    other = Index.open(index.uri, model)

    class Impatient(RuntimeError):
        pass

    real = type(model).embed_texts

    def embed(self, texts, **options):
        with pytest.raises(BuildError, match="has not finished"):
            other.add(documents(3, start=900), collection="d")
        return real(self, texts, **options)

    type(model).embed_texts = embed
    try:
        index.add(documents(3, start=800), collection="d")
    finally:
        type(model).embed_texts = real
    other.add(documents(3, start=900), collection="d")
    assert len(index) == 126


# -- the command line --------------------------------------------------------------------------


def test_commands(model, server, tmp_path):
    model.save(tmp_path / "model")
    lines = [json.dumps({"_id": d.id, "text": d.text, **d.metadata}) for d in documents(30)]
    (tmp_path / "docs.jsonl").write_text("\n".join(lines) + "\n")
    uri = server.uri().replace("postgres:@", "postgres:hidden@")
    run = CliRunner().invoke

    def output(*arguments, code=0):
        result = run(app, list(arguments))
        assert result.exit_code == code, result.output
        assert "hidden" not in result.output
        return result.stdout

    told = json.loads(output("index", str(tmp_path / "model"), uri, str(tmp_path / "docs.jsonl"), "--json"))
    assert (told["total"], told["encoded"]) == (30, 30)
    assert "30 unchanged" in output("index", str(tmp_path / "model"), uri, str(tmp_path / "docs.jsonl"))
    told = json.loads(output("search", uri, "word3", "--where", "year > 1995", "--json"))
    assert all(hit["metadata"]["year"] > 1995 for hit in told["hits"])
    assert "documents" in output("index", "info", uri)
    assert "fragments" not in output("index", "info", uri)
    assert json.loads(output("index", "build", uri, "--kind", "hnsw", "--json"))["vectors"]["kind"] == "hnsw"
    output("index", "compact", uri)
    output("index", "refresh", uri)
    assert "no old versions" in run(app, ["index", "clean", uri]).output


# -- a table that is there already -------------------------------------------------------------


@pytest.fixture
def table(server, model):
    """A table of somebody else's, with vectors of the model; returns its address."""
    uri = server.uri()
    name = postgres_uri(uri).table
    server.execute("CREATE EXTENSION IF NOT EXISTS vector")
    server.execute(
        f"CREATE TABLE {name} (number int PRIMARY KEY, body text, heading varchar(80), emb vector(32), "
        "made timestamptz DEFAULT now(), stars real, tags jsonb, twice int GENERATED ALWAYS AS (2 * number) STORED)"
    )
    found = documents(80)
    for number, (document, vector) in enumerate(
        zip(found, model.encode_document([d.content for d in found]), strict=True)
    ):
        server.execute(
            f"INSERT INTO {name} (number, body, heading, emb, stars) VALUES (%s, %s, %s, %s::vector, %s)",
            *(number, document.text, document.title, str(vector.tolist()), number / 2),
        )
    return uri


NAMED = {"id": "number", "text": "body", "vector": "emb", "title": "heading"}


def test_a_table_is_adopted_where_it_is(table, server, model, tmp_path):
    name = postgres_uri(table).table
    before = server.execute(f"SELECT * FROM {name} ORDER BY number")
    server.execute(f"INSERT INTO {name} (number, body) VALUES (500, 'without a vector')")
    index, report = Index.adopt(table, model, NAMED, collection="mine")
    assert (report.documents, report.incomplete, report.checked, report.replaces) == (80, 1, 64, True)
    assert report.agreement > 0.999
    assert report.left_alone == ("made", "tags")
    assert server.execute(f"SELECT * FROM {name} WHERE number < 500 ORDER BY number") == before
    columns = [
        row[0]
        for row in server.execute(f"SELECT attname FROM pg_attribute WHERE attrelid = '{name}'::regclass")
    ]
    assert "routerretriever_words" not in columns

    lance = Index.create(tmp_path / "index", model)
    lance.upsert([Document(d.id[1:], d.text, d.title) for d in documents(80)], collection="mine")
    for query in ("word3 word21", "word13"):
        wanted = [hit.id for hit in lance.search(query, mode="vector")]
        assert [hit.id for hit in index.search(query)] == wanted  # without an index of words
        hits = index.search(query, 3, where={"twice": {"lt": 40}, "collection": "mine", "id": {"ne": "7"}})
        assert [hit.metadata["twice"] == 2 * int(hit.id) for hit in hits] == [True] * 3
    assert index.search("word3", where={"collection": "other"}) == []
    assert index.describe().collections == {"mine": 81}

    index.build_text_index()
    assert Index.open(table, model).search("word13", mode="text")[0].id == "13"
    server.execute(f"INSERT INTO {name} (number, body) VALUES (501, 'unheard')")
    assert index.search("unheard", mode="text")[0].id == "501"


def test_documents_of_an_adopted_table_are_replaced(table, server, model):
    name = postgres_uri(table).table
    index, _ = Index.adopt(table, model, NAMED, collection="mine")
    server.execute(f"UPDATE {name} SET tags = '[1]', stars = 5 WHERE number = 3")
    assert index.upsert([Document("3", "word150"), Document("90", "word151")]) == 2
    assert server.execute(f"SELECT body, stars, tags, heading FROM {name} WHERE number = 3") == [
        ("word150", 5.0, [1], None)
    ]
    assert index.search("word151", mode="vector")[0].id in ("90", "3")
    index.upsert([Document("3", "word150", "", {"stars": 4})], collection="mine")
    assert server.execute(f"SELECT stars FROM {name} WHERE number = 3") == [(4.0,)]
    assert index.delete(["90", "none"]) == 1
    report = index.add([Document("3", "word150"), Document("4", "fresh")], collection="mine")
    assert (report.unchanged, report.encoded, report.gone) == (1, 1, 78)
    for document, collection, message in [
        (Document("5", "x", "", {"fresh": 1}), "mine", "Add a column to the table first"),
        (Document("5", "x"), "other", "no column for collections"),
        (Document("5", "x", "", {"twice": 1}), "mine", "not one of the index's"),
        (Document("five", "x"), "mine", "five"),
    ]:
        with pytest.raises((CollectionError, VectorIndexError), match=message):
            index.upsert([document], collection=collection)


def test_vectors_of_another_base_are_refused(table, server, model, checkpoint, tmp_path):
    name = postgres_uri(table).table
    other = RouterRetriever.create(str(make_checkpoint(tmp_path / "other", "mpnet")), device="cpu")
    with pytest.raises(FingerprintError, match="are not those of the model's base"):
        Index.adopt(table, other, NAMED)
    dots = RouterRetriever.create(str(checkpoint), similarity="dot", device="cpu")
    server.execute(f"UPDATE {name} t SET emb = o.emb FROM {name} o WHERE o.number = (t.number + 1) % 80")
    with pytest.raises(FingerprintError, match="are not those of the model's base"):
        Index.adopt(table, model, NAMED)
    server.execute(f"UPDATE {name} t SET emb = o.emb FROM {name} o WHERE t.number = (o.number + 1) % 80")
    server.execute(f"UPDATE {name} SET emb = l2_normalize(emb)")
    with pytest.raises(FingerprintError, match="are not those of the model's base"):
        Index.adopt(table, dots, NAMED)
    with pytest.raises(VectorIndexError, match="it is no index yet"):
        Index.open(table, model)
    with pytest.raises(VectorIndexError, match="it is no index yet"):
        Index.create(table, model)
    Index.adopt(table, model, NAMED)
    with pytest.raises(VectorIndexError, match="is an index already"):
        Index.adopt(table, model, NAMED)


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        ("SELECT 1", {"id": "nothing"}, "no column 'nothing' for the id. It has: number, body"),
        ("SELECT 1", {"vector": "body"}, "of type text. Documents need one of pgvector's type"),
        ("SELECT 1", {"text": "number"}, "holds no text"),
        ("SELECT 1", {"id": "heading"}, "there twice, or is null"),
        ("SELECT 1", {"colour": "body"}, "unknown: colour"),
        ("DELETE FROM {}", {}, "no row with a text and a vector"),
        ("ALTER TABLE {} ALTER COLUMN emb TYPE vector", {}, "TYPE vector\\(32\\)"),
        ("UPDATE {} SET emb = NULL", {}, "no row with a text and a vector"),
    ],
)
def test_tables_that_cannot_be_adopted(table, server, model, change, columns, message):
    server.execute(change.format(postgres_uri(table).table))
    with pytest.raises((VectorIndexError, FingerprintError), match=message):
        Index.adopt(table, model, NAMED | columns)


def test_what_is_no_table(server, model, tmp_path):
    server.execute("CREATE VIEW seen AS SELECT 1 AS number, 'x' AS body, '[1]'::vector AS emb")
    for uri, message in [
        (server.uri("seen"), "is a view"),
        (server.uri("nothing"), "no table 'nothing'"),
        (server.uri("nowhere.nothing"), "no table 'nothing'"),
        (str(tmp_path), "not in PostgreSQL"),
    ]:
        with pytest.raises(VectorIndexError, match=message):
            Index.adopt(uri, model, NAMED)


def test_training_takes_the_vectors_that_are_there(
    table, server, model, tmp_path, monkeypatch, make_collection
):
    from routerretriever import Collection, TrainingConfig, train_expert

    monkeypatch.setenv("ROUTERRETRIEVER_CACHE", str(tmp_path / "cache"))
    folder = make_collection("source")
    uri = server.uri()
    source = Index.create(uri, model)
    source.upsert(Collection.load(folder).documents, collection="source")

    monkeypatch.setenv("ROUTERRETRIEVER_CACHE", str(tmp_path / "another"))
    (folder / "corpus.jsonl").unlink()
    assert source.export(folder, collection="source", model=model) == 60
    with pytest.raises(CollectionError, match="exists"):
        source.export(folder, model=model)
    with pytest.raises(CollectionError, match="has no documents of 'none'"):
        source.export(tmp_path / "new", collection="none")
    assert not (tmp_path / "new").exists()

    def refuse(*given, **options):
        raise AssertionError("a document was encoded again")

    from routerretriever.encoder import sentence_model

    monkeypatch.setattr(sentence_model, "encode_documents", refuse)
    collection = Collection.load(folder)
    assert [d.content for d in collection.documents]
    train_expert(model, collection, name="fromindex", config=TrainingConfig(epochs=1), force=True)
    model.remove_expert("fromindex")


def test_commands_of_exchange(table, model, tmp_path):
    model.save(tmp_path / "model")
    run = CliRunner().invoke
    arguments = ["--id", "number", "--text", "body", "--vector", "emb", "--title", "heading"]
    result = run(app, ["index", "adopt", str(tmp_path / "model"), table, *arguments])
    assert result.exit_code == 0, result.output
    assert "is an index of 80 documents" in result.stdout
    assert "made, tags" in result.stderr
    assert run(app, ["search", table, "word13"]).exit_code == 0
    result = run(app, ["index", "export", str(tmp_path / "model"), table, str(tmp_path / "out"), "--json"])
    assert json.loads(result.stdout)["documents"] == 80
    lines = (tmp_path / "out" / "corpus.jsonl").read_text().splitlines()
    assert json.loads(lines[3])["metadata"]["twice"] == 6
