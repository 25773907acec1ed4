"""The readers of lines and tables agree with Python's own, whatever a file holds."""

import csv
import io
import json

from hypothesis import given
from hypothesis import strategies as st
from properties import JSON, TEXT, tried

from routerretriever.data.jsonl import read_jsonl
from routerretriever.data.tables import read_csv, read_tsv
from routerretriever.errors import CollectionError

COLUMNS = ["query", "positive", "title"]
CELLS = st.text(st.sampled_from("ab \"\n\r,;\t'\\é\x00\x0b\u2028")) | TEXT
ROWS = st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=4)
SCRAPS = st.text(st.sampled_from('ab ",;\n\r\t'), max_size=30)


def found_or_refused(read, path):
    """The records, or ``None`` where the reader refuses the file."""
    try:
        return [record for _, record in read(path)]
    except CollectionError as error:
        assert str(path) in str(error)
        return None


def filled(rows):
    """Rows as records, without those that are blank."""
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows if any(cell.strip() for cell in row)]


def unquoted(cell):
    """A cell of TSV as a spreadsheet means it: only one that is quoted as a whole is unquoted."""
    inner = cell[1:-1].replace('""', "")
    is_quoted = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner
    return cell[1:-1].replace('""', '"') if is_quoted else cell


@tried(100)
@given(
    rows=ROWS,
    delimiter=st.sampled_from(",;\t"),
    ending=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_csv_as_python_writes_it(tmp_path, rows, delimiter, ending, quoting, encoding):
    if any("\r" in cell for row in rows for cell in row):
        quoting = csv.QUOTE_ALL  # Python does not quote it, and ends the row there when it reads
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ending, quoting=quoting)
    writer.writerows([COLUMNS, *rows])
    path = tmp_path / "a.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    assert found_or_refused(read_csv, path) == filled(rows)


@tried(200)
@given(body=SCRAPS)
def test_any_csv_is_read_as_python_does_or_refused(tmp_path, body):
    text = ",".join(COLUMNS) + "\n" + body
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    found = found_or_refused(read_csv, path)
    try:
        _, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    except csv.Error:
        assert found is None
        return
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if any(len(row) > len(COLUMNS) for row in rows):
        assert found is None
    else:
        assert found == filled(row + [""] * (len(COLUMNS) - len(row)) for row in rows)


@tried(200)
@given(body=SCRAPS | TEXT)
def test_any_tsv_is_read_line_by_line(tmp_path, body):
    text = "\t".join(COLUMNS) + "\n" + body
    path = tmp_path / "a.tsv"
    path.write_bytes(text.encode())
    found = found_or_refused(read_tsv, path)
    plain = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    rows = [[unquoted(cell) for cell in row] for row in plain]
    rows = [row for row in rows if any(cell.strip() for cell in row)][1:]
    if any(len(row) > len(COLUMNS) for row in rows):
        assert found is None
        return
    assert found == filled(row + [""] * (len(COLUMNS) - len(row)) for row in rows)


@tried(100)
@given(
    records=st.lists(st.dictionaries(TEXT, JSON, max_size=4), max_size=4),
    ascii_only=st.booleans(),
    ending=st.sampled_from(["\n", "\r\n", "\n\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_jsonl_as_python_writes_it(tmp_path, records, ascii_only, ending, mark):
    lines = [json.dumps(record, ensure_ascii=ascii_only) + ending for record in records]
    path = tmp_path / "a.jsonl"
    path.write_bytes(mark + "".join(lines).encode())
    assert found_or_refused(read_jsonl, path) == records


@tried(200)
@given(content=st.binary(max_size=20) | st.text(st.sampled_from('{}[]":,1a \n\r')).map(str.encode))
def test_any_line_is_an_object_or_refused(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    found = found_or_refused(read_jsonl, path)
    try:
        lines = [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
        wanted = [json.loads(line.decode()) for line in lines]
    except ValueError:
        wanted = [None]
    if all(isinstance(record, dict) for record in wanted):
        assert repr(found) == repr(wanted)
    else:
        assert found is None
