"""Pairs as people export them: labels, negatives, lists, and spreadsheets."""

import json

import pytest

from routerretriever.data.collection import Collection
from routerretriever.errors import CollectionError


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def judged(path, split="train", **options):
    """Query → text of a document → grade."""
    collection = Collection.load(path, **options)
    texts = {document.id: document.text for document in collection.documents}
    part = collection.split(split)
    return {
        part.queries[query_id]: {texts[document_id]: grade for document_id, grade in grades.items()}
        for query_id, grades in part.qrels.items()
    }


# -- columns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["label", "score", "relevance", "grade", "Label"])
def test_the_grade_of_a_pair_is_read(tmp_path, column):
    rows = [
        ("open?", "From 7 to 21.", 2),
        ("open?", "Caps cost 3 euros.", 0),
        ("lost key", "Ask at the desk.", 1),
    ]
    path = write(tmp_path / "p.jsonl", *({"query": q, "positive": p, column: g} for q, p, g in rows))
    expected = {"open?": {"From 7 to 21.": 2, "Caps cost 3 euros.": 0}, "lost key": {"Ask at the desk.": 1}}
    assert judged(path) == expected
    (tmp_path / "p.csv").write_text(
        f"query,passage,{column}\n" + "".join(f"{q},{p},{g}\n" for q, p, g in rows)
    )
    assert judged(tmp_path / "p.csv") == expected


@pytest.mark.parametrize("grade", [0.5, "inf", None, "", "yes", 1e300, "1_0"])
def test_a_grade_that_is_no_whole_number_is_refused(tmp_path, grade):
    path = write(tmp_path / "p.jsonl", {"query": "a", "positive": "b", "label": grade})
    with pytest.raises(CollectionError, match=r"line 1: the grade .* is not a whole number"):
        Collection.load(path)


def test_a_query_with_negatives_alone_is_refused(tmp_path):
    path = write(tmp_path / "p.jsonl", {"query": "a", "positive": "b", "label": 0})
    with pytest.raises(CollectionError, match="1 queries have no positive"):
        Collection.load(path)
    assert Collection.load(path, strict=False).splits == {}


@pytest.mark.parametrize("name", ["negative", "neg", "negative_1", "Negative"])
def test_negatives_are_kept_as_documents_of_grade_0(tmp_path, name):
    path = write(tmp_path / "p.jsonl", {"anchor": "open?", "positive": "From 7.", name: "Caps cost 3 euros."})
    assert judged(path) == {"open?": {"From 7.": 1, "Caps cost 3 euros.": 0}}


def test_lists_of_positives_and_negatives_are_read(tmp_path):
    path = write(
        tmp_path / "flag.jsonl", {"query": "open?", "pos": ["From 7.", "Not on Mondays."], "neg": ["Caps."]}
    )
    assert judged(path) == {"open?": {"From 7.": 1, "Not on Mondays.": 1, "Caps.": 0}}


def test_a_text_that_is_positive_and_negative_is_a_contradiction(tmp_path):
    rows = [{"query": "a", "positive": "b"}, {"query": "a", "positive": "c", "negative": "b"}]
    path = write(tmp_path / "p.jsonl", *rows)
    with pytest.raises(CollectionError, match=r"line 2: .* has grade 0 for query .* and grade 1 before"):
        Collection.load(path)
    assert judged(path, strict=False) == {"a": {"c": 1}}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"sentence1": "a", "sentence2": "b"}, "not understood: 'sentence1', 'sentence2'"),
        ({"query": "a", "positive": "b", "pos_scores": [1.0]}, "not understood: 'pos_scores'"),
        ({"question": "a", "context": "b", "answer": "c"}, "not understood: 'context'"),
        ({"query": "a", "answer": "b", "text": "c"}, "the columns 'answer', 'text' could all be meant"),
        ({"query": "a", "positive": "b", "label": 1, "score": 1}, "'label', 'score' could all be the grade"),
        ({"query": 4711, "positive": "b"}, "'query' holds 4711. Write a text"),
        ({"query": "a", "pos": ["b", 5]}, "'pos' holds 5"),
        ({"query": "a", "positive": {"text": "b"}}, "'positive' holds {'text': 'b'}"),
        ({"query": ["a", "b"], "positive": "c"}, "found 2 queries"),
        ({"query": "a", "positive": "\ud800"}, "half of a surrogate pair"),
        ({"query": "a", "positive": "b", "title": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path, record, message):
    good = {"query": "x", "positive": "y"}
    path = write(tmp_path / "p.jsonl", good, record)
    with pytest.raises(CollectionError, match=f"line 2: .*{message}"):
        Collection.load(path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"Query": "a", "QUERY": "b", "positive": "x"},
            "two of the columns 'Query', 'QUERY', 'positive' have the same",
        ),
        ({"query": "a", "positive": "x", "title": ["s", "t"]}, "found 2 titles"),
        ({"query": "a", "positive": "x", "split": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_nothing_is_chosen_without_a_word(tmp_path, record, message):
    with pytest.raises(CollectionError, match=f"p.jsonl, line 1: {message}|line 1: it holds {message}"):
        Collection.load(write(tmp_path / "p.jsonl", record))


@pytest.mark.parametrize(
    ("given", "name"), [("Train", "train"), (" TEST ", "test"), ("Validation", "dev"), ("B", "B")]
)
def test_splits_have_one_name(tmp_path, given, name):
    path = write(tmp_path / "p.jsonl", {"query": "a", "positive": "x", "split": given})
    assert set(Collection.load(path).splits) == {name}


def test_lenient_leaves_out_columns_that_are_not_understood(tmp_path):
    path = write(
        tmp_path / "p.jsonl", {"query": "a", "positive": "b", "annotator": "Kim", "id": 5, "note": None}
    )
    with pytest.raises(CollectionError, match="not understood: 'annotator'.*--lenient"):
        Collection.load(path)
    assert judged(path, strict=False) == {"a": {"b": 1}}


def test_equal_texts_of_different_titles_are_different_documents(tmp_path):
    rows = [("q1", "Same text.", "One"), ("q2", "Same text.", "Two"), ("q3", "Same text.", "One")]
    path = write(tmp_path / "p.jsonl", *({"query": q, "positive": p, "title": t} for q, p, t in rows))
    assert [document.content for document in Collection.load(path).documents] == [
        "One Same text.",
        "Two Same text.",
    ]


def test_the_split_of_a_pair(tmp_path):
    rows = [{"query": "a", "positive": "b", "split": split} for split in ("train", "validation", "test")]
    assert set(Collection.load(write(tmp_path / "p.jsonl", *rows)).splits) == {"train", "dev", "test"}


# -- spreadsheets ----------------------------------------------------------------------------------

ROWS = {
    "How do I reset the Küchenwaage?": "Hold the key; it shows 0 g.",
    "price of a lid": "2,50 €; order 4711.",
}


def spreadsheet(delimiter, header="query{}positive"):
    lines = [header.format(delimiter), *(f'{q}{delimiter}"{p}"' for q, p in ROWS.items())]
    return "".join(f"{line}\r\n" for line in lines)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.csv", spreadsheet(",").encode("utf-8-sig")),
        ("bom-semicolon.csv", spreadsheet(";").encode("utf-8-sig")),
        ("tab.csv", spreadsheet("\t").encode()),
        ("case.csv", spreadsheet(",", "Query{} Positive ").encode()),
        ("sep.csv", ("sep=;\r\n" + spreadsheet(";")).encode()),
        ("sep-bom.csv", ("sep=,\r\n" + spreadsheet(",")).encode("utf-8-sig")),
        ("UPPER.CSV", spreadsheet(",").encode()),
        ("unicode.tsv", spreadsheet("\t").encode("utf-16")),
        ("unicode.csv", spreadsheet(",").encode("utf-16")),
        ("mac.csv", spreadsheet(",").replace("\r\n", "\r").encode()),
        ("bom.tsv", spreadsheet("\t").encode("utf-8-sig")),
    ],
)
def test_spreadsheets_are_read_as_they_were_exported(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert judged(tmp_path / name) == {query: {positive: 1} for query, positive in ROWS.items()}


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "p.csv").write_bytes(spreadsheet(";").encode("cp1252"))
    with pytest.raises(CollectionError, match=r"line 2: neither UTF-8 nor UTF-16.*'CSV UTF-8'"):
        Collection.load(tmp_path / "p.csv")


def test_a_header_that_is_not_understood_is_shown(tmp_path):
    (tmp_path / "p.csv").write_text("Frage;Antwort\nWann?;Jetzt.\n")
    with pytest.raises(CollectionError, match=r"line 2: not understood: 'frage', 'antwort'"):
        Collection.load(tmp_path / "p.csv")


def test_tsv_has_no_quoting_but_of_whole_cells(tmp_path):
    lines = [
        '19" rack\tA width.',
        '"to be honest\tA phrase.',
        'of "ad hoc"\t"Ad hoc" is Latin.',
        '"a ""b"""\t"c"',
    ]
    (tmp_path / "p.tsv").write_text("\n".join(["query\tpositive", *lines]) + "\n")
    assert judged(tmp_path / "p.tsv") == {
        '19" rack': {"A width.": 1},
        '"to be honest': {"A phrase.": 1},
        'of "ad hoc"': {'"Ad hoc" is Latin.': 1},
        'a "b"': {"c": 1},
    }


def test_cells_are_kept_whole(tmp_path):
    paragraphs, long = "Step 1.\n\n\nStep 2.", "chapter " * 20_000
    (tmp_path / "p.csv").write_text(f'query,positive\n\na,"{paragraphs}"\n\nb,{long}\n')
    assert judged(tmp_path / "p.csv") == {"a": {paragraphs: 1}, "b": {long: 1}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('query,positive\na,"b\nc,d\n', r"line 2: the row that begins here is not valid CSV.*quotes"),
        ('query,positive\n\na,"x\n\ny"\nb,"c\nd,"e"\n', r"line 6: the row that begins here"),
        (
            "query,positive\nwhere, when and why,Here\n",
            r"line 2: the row has 3 cells, and there are 2 columns",
        ),
        ('query,positive\na,"x\n\ny"\n\nb\n', r"line 6: no text in a column named positive"),
        ("query,Query\na,b\n", r"line 1: two columns are called 'query'"),
    ],
)
def test_bad_rows_are_named_with_the_line_they_begin_on(tmp_path, content, message):
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(CollectionError, match=message):
        Collection.load(tmp_path / "p.csv")


def test_empty_rows_and_unnamed_columns_of_row_numbers_are_left_out(tmp_path):
    (tmp_path / "p.csv").write_text(",query,positive\n0,a,b\n,,\n1,c,d\n")
    assert judged(tmp_path / "p.csv") == {"a": {"b": 1}, "c": {"d": 1}}
