import gzip
import json

import pytest
from tiny import write_beir

from routerretriever.data.collection import Collection
from routerretriever.data.splits import HELD_OUT_LIMIT
from routerretriever.errors import CollectionError
from routerretriever.experts.held_out import HeldOutPlan


@pytest.fixture
def small(tmp_path):
    return write_beir(
        tmp_path / "small",
        {"d1": "one", "d2": "two"},
        {"q1": "first", "q2": "second"},
        {"train": {"q1": {"d1": 2}}, "test": {"q2": {"d2": 1}}},
    )


def test_beir_directory(small):
    collection = Collection.load(small)
    assert collection.name == "small"
    assert collection.document_ids == ["d1", "d2"]
    assert collection.split("train").qrels == {"q1": {"d1": 2}}
    assert list(collection.splits) == ["test", "train"]


def test_title_and_metadata(small):
    row = {
        "_id": "d3",
        "title": "Title",
        "text": "body",
        "year": 2020,
        "metadata": {"lang": "en", "tags": ["a"]},
    }
    with (small / "corpus.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    collection = Collection.load(small)
    assert collection.left_out == ("tags",)
    document = collection.documents[-1]
    assert document.content == "Title body"
    assert document.metadata == {"year": 2020, "lang": "en"}


def test_gzipped_corpus(small):
    text = (small / "corpus.jsonl").read_bytes()
    (small / "corpus.jsonl").unlink()
    (small / "corpus.jsonl.gz").write_bytes(gzip.compress(text))
    assert len(Collection.load(small).documents) == 2
    (small / "corpus.jsonl.gz").write_bytes(gzip.compress(text)[:-12])
    with pytest.raises(CollectionError, match="cannot be read"):
        Collection.load(small)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("corpus.jsonl", b"", "has no documents"),
        ("queries.jsonl", b"", "queries.jsonl is empty"),
        ("corpus.jsonl", b'{"_id": "d1", "text": "one"}\n{"_id": "d2", "te', r"line 2: not valid JSON.*truncated"),
        ("corpus.jsonl", b'{"_id": "d1", "text": "one"}\n{"_id": "d1", "text": "x"}\n', r"line 2: the document id 'd1' is used twice"),
        ("corpus.jsonl", b'{"_id": "d1"}\n', r"line 1: the record has no field 'text'"),
        ("corpus.jsonl", b'{"text": "x"}\n', r"line 1: the record has no field '_id'"),
        ("corpus.jsonl", b'{"_id": "d1", "text": "x", "metadata": "foo"}\n', r"line 1: 'metadata' is str"),
        ("corpus.jsonl", b'{"_id": "d1", "text": "x", "n": 9223372036854775808}\n', r"line 1: the field 'n' is beyond"),
        ("corpus.jsonl", b'{"_id": "d1", "text": "\\ud800"}\n', r"line 1: it holds half of a surrogate pair"),
        ("queries.jsonl", b'{"_id": "q1", "text": "\\ud800"}\n', r"line 1: it holds half of a surrogate pair"),
        ("queries.jsonl", b'{"_id": "q1", "text": "x", "metadata": 5}\n', r"line 1: 'metadata' is int"),
        ("corpus.jsonl", b"[1]\n", r"line 1: expected a JSON object.*jq"),
        ("corpus.jsonl", b'{"_id": "d1", "text": "caf\xe9"}\n', "not UTF-8"),
        ("queries.jsonl", b'{"_id": "q1", "text": "x"}\n{"_id": "q1", "text": "y"}\n', r"line 2: the query id 'q1' is used twice"),
        ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nq2\tnowhere\t1\n", r"line 2: the judgement names document"),
        ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nnobody\td1\t1\n", r"line 2: the judgement names query"),
        ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nq2\td1\n", r"line 2: expected 'query-id<TAB>"),
        ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nq2\td1\t0\n", "1 queries have no positive document"),
        ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nq2\td1\t0.5\n", r"line 2: the grade '0.5' is not a whole number"),
        ("qrels/test.tsv", b"q2\td1\t1\n\nq2\td1\t1.9\n", r"line 3: the grade '1.9' is not a whole number"),
        ("qrels/test.tsv", b"q2\td1\tinf\n", r"line 1: the grade 'inf' is not a whole number"),
        ("qrels/test.tsv", b"q2\td1\tnan\n", r"line 1: the grade 'nan' is not a whole number"),
        ("qrels/test.tsv", b"q2\td1\t2\nq2\td1\t0\n", r"line 2: document 'd1' has grade 0 for query 'q2' here and grade 2"),
        ("qrels/test.tsv", b"q2\td1\twords\n", r"line 1: expected the columns"),
        ("qrels/test.tsv", b"query-id,corpus-id,score\nq2,d1,1\n", r"line 1: expected 'query-id<TAB>"),
        ("qrels/test.tsv", b"q2 0 d1 1\n", r"line 1: expected 'query-id<TAB>"),
        ("corpus.jsonl", b'{"_id": "d1", "text": null}\n', r"line 1: 'text' holds None"),
        ("corpus.jsonl", b'{"_id": {"$oid": "5f"}, "text": "x"}\n', r"line 1: the field '_id' holds dict"),
    ],
)  # fmt: skip
def test_bad_files_are_named_with_their_line(small, file, content, message):
    (small / file).write_bytes(content)
    with pytest.raises(CollectionError, match=message):
        Collection.load(small)


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl"])
def test_missing_file(small, file):
    (small / file).unlink()
    with pytest.raises(CollectionError, match=f"{file} is missing"):
        Collection.load(small)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffquery-id\tcorpus-id\tscore\nq2\td1\t2\n",
        "\ufeffq2\td1\t2\n",
        "query_id\tdoc_id\trelevance\r\nq2\td1\t2\r\n",
        "Score\tcorpus-id\tquery-id\n2\td1\tq2\n",
        "q2\td1\t2.0\n",
        "q2\td1\t2e0\nq2\td1\t2\n",
    ],
)
def test_judgements_are_read_as_they_are_written(small, content):
    (small / "qrels" / "test.tsv").write_text(content)
    assert Collection.load(small).split("test").qrels == {"q2": {"d1": 2}}


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl"])
def test_a_byte_order_mark_is_skipped(small, file):
    (small / file).write_bytes(b"\xef\xbb\xbf" + (small / file).read_bytes())
    assert len(Collection.load(small).documents) == 2


def test_identical_ids_are_ignored_where_beir_does_so_or_on_request(small, tmp_path):
    assert not Collection.load(small).ignore_identical_ids
    assert Collection.load(small, ignore_identical_ids=True).ignore_identical_ids
    for name in ("arguana", "quora", "ArguAna"):
        folder = small.rename(tmp_path / name)
        assert Collection.load(folder, name="other").ignore_identical_ids
        assert not Collection.load(folder, ignore_identical_ids=False).ignore_identical_ids
        small = folder


def test_lenient_drops_what_names_nothing_and_contradictions(small):
    with (small / "qrels" / "test.tsv").open("a") as file:
        file.write("q2\tnowhere\t1\nnobody\td1\t1\nq1\td1\t0\nq2\td1\t1\nq2\td1\t0\n")
    split = Collection.load(small, strict=False).split("test")
    assert split.qrels == {"q2": {"d2": 1}}


def test_unknown_source_says_what_is_possible(tmp_path):
    with pytest.raises(CollectionError, match="BEIR folder"):
        Collection.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("title", "kept"), [(None, ""), (float("nan"), ""), (1984, "1984"), ("", ""), ("a", "a")]
)
def test_titles_are_texts(tmp_path, title, kept):
    folder = write_beir(tmp_path / "c", {"d": "x"}, {"q": "y"}, {"test": {"q": {"d": 1}}})
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": "d", "text": "x", "title": title}))
    assert Collection.load(folder).documents[0].title == kept


@pytest.mark.parametrize(
    "record", [{"_id": "d", "title": ["a"]}, {"_id": "d", "title": True}, {"_id": float("nan")}]
)
def test_titles_and_ids_of_other_types_are_refused(tmp_path, record):
    folder = write_beir(tmp_path / "c", {"d": "x"}, {"q": "y"}, {"test": {"q": {"d": 1}}})
    (folder / "corpus.jsonl").write_text(json.dumps({"text": "x", **record}))
    with pytest.raises(CollectionError, match="corpus.jsonl, line 1: .* holds"):
        Collection.load(folder)


def test_all_files_of_judgements_are_read_and_hidden_ones_are_not(tmp_path):
    folder = write_beir(tmp_path / "c", {"d": "x"}, {"q": "y"}, {"test": {"q": {"d": 1}}})
    judged = (folder / "qrels" / "test.tsv").read_bytes()
    (folder / "qrels" / "train.tsv.gz").write_bytes(gzip.compress(judged))
    (folder / "qrels" / "Validation.TSV").write_bytes(judged)
    (folder / "qrels" / "._test.tsv").write_bytes(b"\0\xff")
    assert set(Collection.load(folder).splits) == {"train", "dev", "test"}


def test_a_second_id_is_named_as_left_out(tmp_path):
    folder = write_beir(tmp_path / "c", {"d": "x"}, {"q": "y"}, {"test": {"q": {"d": 1}}})
    records = [{"_id": "d", "id": 7, "text": "x"}, {"_id": "e", "id": "e", "doc_id": None, "text": "x"}]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert Collection.load(folder).left_out == ("id",)


def test_unknown_split(small):
    with pytest.raises(CollectionError, match="no split 'dev'. It has: test, train"):
        Collection.load(small).split("dev")


def test_held_out_part_is_disjoint_fixed_and_keeps_equal_questions_together(tmp_path):
    queries = {f"q{n}": f"question {n // 2}" for n in range(200)}
    folder = write_beir(tmp_path / "c", {"d": "x"}, queries, {"train": {q: {"d": 1} for q in queries}})
    train, held_out = Collection.load(folder).train_and_held_out()
    assert len(train) + len(held_out) == 200
    assert not set(train.queries.values()) & set(held_out.queries.values())
    assert 30 <= len(held_out) <= 50
    assert Collection.load(folder).train_and_held_out()[1].queries == held_out.queries


def test_near_copies_of_a_question_stay_on_one_side(tmp_path):
    """Case, spaces, widths and closing punctuation make no other question."""
    spellings = ["how to {}", "How to  {} ?", "HOW TO {}!", "how to {}."]
    queries = {f"q{n}-{k}": text.format(f"fold {n}") for n in range(60) for k, text in enumerate(spellings)}
    folder = write_beir(tmp_path / "c", {"d": "x"}, queries, {"train": {q: {"d": 1} for q in queries}})
    train, held_out = Collection.load(folder).train_and_held_out()
    assert len(train) + len(held_out) == 240
    assert len(held_out) >= 48
    numbers = [{query_id.split("-")[0] for query_id in part.queries} for part in (train, held_out)]
    assert numbers[0].isdisjoint(numbers[1])


HELD_OUT_BEFORE = ["q10", "q13", "q17", "q19", "q23", "q25", "q26", "q27", "q29", "q40"]


def test_held_out_queries_without_near_copies_are_those_of_the_first_version(tmp_path):
    queries = {f"q{n}": f"Question  {n} of Straße" for n in range(50)}
    folder = write_beir(tmp_path / "c", {"d": "x"}, queries, {"train": {q: {"d": 1} for q in queries}})
    _, held_out = Collection.load(folder).train_and_held_out()
    assert list(held_out.queries) == HELD_OUT_BEFORE


def generated_collection(folder, queries, qrels):
    write_beir(folder, {f"d{n}": "x" for n in range(60)}, queries, qrels)
    lines = [
        json.dumps({"_id": query, "text": text, "metadata": {"generated": "llm"} if query[0] == "g" else {}})
        for query, text in queries.items()
    ]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    return Collection.load(folder)


def test_generated_queries_of_a_document_stay_on_one_side(tmp_path):
    queries = {f"g{n}-{k}": f"form {k} about {n}" for n in range(60) for k in range(4)}
    judged = {query: {f"d{query[1:].split('-')[0]}": 1} for query in queries}
    collection = generated_collection(tmp_path / "c", queries, {"train": judged})
    train, held_out = collection.train_and_held_out()
    assert len(train) + len(held_out) == 240 and 48 <= len(held_out) < 96
    sides = [
        {document for grades in part.qrels.values() for document in grades} for part in (train, held_out)
    ]
    assert sides[0].isdisjoint(sides[1])

    keys = collection.division_keys(held_out)
    assert len(set(keys)) == len(held_out) / 4
    plan = HeldOutPlan.of([keys])
    for part in plan.parts[1:]:
        measuring = {
            document
            for q, own in zip(held_out.queries, part.measures[0], strict=True)
            if own
            for document in held_out.qrels[q]
        }
        choosing = {
            document
            for q, own in zip(held_out.queries, part.selects[0], strict=True)
            if own
            for document in held_out.qrels[q]
        }
        assert measuring.isdisjoint(choosing)


def test_generated_dev_queries_are_of_other_documents_than_generated_train_queries(tmp_path):
    queries = {"g1": "one", "g2": "two", "g3": "three", "q4": "four", "q5": "one "}
    train = {"g1": {"d1": 1, "d9": 0}}
    dev = {"g2": {"d1": 1}, "g3": {"d9": 1}, "q4": {"d1": 1}, "q5": {"d2": 1}}
    collection = generated_collection(tmp_path / "c", queries, {"train": train, "dev": dev})
    assert list(collection.train_and_held_out()[1].queries) == ["g3", "q4"]


def test_generated_queries_that_link_most_documents_leave_something_on_both_sides(tmp_path):
    queries = {f"g{n}": f"form about {n}" for n in range(60)}
    judged = {f"g{n}": {f"d{n}": 1, f"d{n % 40}": 1, "d0" if n % 40 < 35 else "d35": 1} for n in range(60)}
    collection = generated_collection(tmp_path / "c", queries, {"train": judged})
    assert all(len(part) for part in collection.train_and_held_out())


def test_dev_split_is_held_out_without_what_train_has(tmp_path):
    queries = {"a": "same", "b": "Same ", "c": "other"}
    folder = write_beir(
        tmp_path / "c", {"d": "x"}, queries, {"train": {"a": {"d": 1}}, "dev": {"b": {"d": 1}, "c": {"d": 1}}}
    )
    train, held_out = Collection.load(folder).train_and_held_out()
    assert list(train.queries) == ["a"]
    assert list(held_out.queries) == ["c"]


def test_sample_is_fixed_and_bounded(tmp_path):
    queries = {f"q{n}": f"question {n}" for n in range(700)}
    folder = write_beir(
        tmp_path / "c", {"d": "x"}, queries, {"train": {q: {"d": 1} for q in queries}, "dev": {}}
    )
    split = Collection.load(folder).split("train")
    assert split.sample(50).queries == split.sample(50).queries
    assert split.sample(50, seed=1).queries != split.sample(50).queries
    assert len(split.sample(HELD_OUT_LIMIT)) == HELD_OUT_LIMIT


PAIRS = [("how to list files", "ls"), ("list a folder", "ls"), ("say hello, world", 'echo "hello"')]


def check_pairs(collection):
    assert sorted(d.text for d in collection.documents) == ['echo "hello"', "ls"]
    assert sorted(collection.split("train").queries.values()) == sorted(query for query, _ in PAIRS)


def test_pairs_jsonl(tmp_path):
    path = tmp_path / "shell.jsonl"
    path.write_text("".join(json.dumps({"query": q, "positive": p}) + "\n" for q, p in PAIRS))
    assert Collection.load(path).name == "shell"
    check_pairs(Collection.load(path))


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_pairs_tables(tmp_path, suffix, delimiter):
    import csv

    path = tmp_path / f"shell{suffix}"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([("question", "answer"), *PAIRS])
    check_pairs(Collection.load(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", '{"query": "x"}\n', "line 1: no text in a column named positive"),
        ("a.csv", "query,positive\nx,\n", "line 2: no text in a column named positive"),
        ("a.txt", "x", "unknown kind of file"),
    ],
)
def test_bad_pairs(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(CollectionError, match=message):
        Collection.load(tmp_path / name)


def test_ir_datasets_collection(tmp_path):
    """A data set registered with the real ``ir_datasets`` library."""
    import ir_datasets
    from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries
    from ir_datasets.util import Download, LocalDownload

    assert Download
    files = {"docs": "d1\tbody\n", "queries": "q1\task\n", "qrels": "q1 0 d1 1\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    def local(name):
        return LocalDownload(str(tmp_path / name), mkdir=False)

    docs, queries = TsvDocs(local("docs"), namespace="tiny"), TsvQueries(local("queries"), namespace="tiny")
    qrels = TrecQrels(local("qrels"), {1: "relevant"})
    ir_datasets.registry.register("rr-tiny", ir_datasets.Dataset(docs))
    ir_datasets.registry.register("rr-tiny/test", ir_datasets.Dataset(docs, queries, qrels))
    collection = Collection.load("ir_datasets:rr-tiny")
    assert collection.documents[0].text == "body"
    assert collection.split("test").qrels == {"q1": {"d1": 1}}
    with pytest.raises(CollectionError, match="knows no data set"):
        Collection.load("ir_datasets:no-such-thing")
