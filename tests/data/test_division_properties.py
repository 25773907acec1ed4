"""Whatever queries share is on one side of a division; file names tell names apart."""

from hypothesis import given
from hypothesis import strategies as st
from properties import TEXT, tried

from routerretriever.data.names import file_name_of
from routerretriever.data.splits import Split, division_keys, is_measured_on, part_held_out
from routerretriever.data.text import text_key

QUERIES = st.lists(
    st.tuples(
        st.sampled_from(["one", "ONE ", "two", "three", "four?", "four", "five", "six"]),
        st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-1, 2), min_size=1, max_size=3),
        st.booleans(),
    ),
    min_size=1,
    max_size=20,
)


def shared(split, generated):
    """Everything that no query of the other side may have, too."""
    texts = {text_key(text) for text in split.queries.values()}
    documents = {
        document
        for query_id in split.queries
        if query_id in generated
        for document, grade in split.qrels[query_id].items()
        if grade > 0
    }
    return texts, documents


@tried(200)
@given(QUERIES)
def test_queries_that_share_a_text_or_were_made_from_one_document_are_on_one_side(rows):
    ids = [f"q{number}" for number in range(len(rows))]
    generated = {query_id for query_id, (_, _, is_generated) in zip(ids, rows, strict=True) if is_generated}
    split = Split(
        "train",
        {query_id: text for query_id, (text, _, _) in zip(ids, rows, strict=True)},
        {query_id: grades for query_id, (_, grades, _) in zip(ids, rows, strict=True)},
    )
    train, held_out = part_held_out(split, generated)
    assert {*train.queries, *held_out.queries} == set(ids) and len(train) + len(held_out) == len(ids)
    assert len(held_out) > 0

    keys = dict(zip(ids, division_keys(split, generated), strict=True))
    chooses = split.restrict(query_id for query_id in ids if not is_measured_on(keys[query_id]))
    measures = split.restrict(query_id for query_id in ids if is_measured_on(keys[query_id]))
    for one, other in ((train, held_out), (chooses, measures)):
        for own, others in zip(shared(one, generated), shared(other, generated), strict=True):
            assert own.isdisjoint(others)
    assert held_out.without_copies_of(train, generated).queries == held_out.queries


@tried(200)
@given(st.lists(TEXT | TEXT.map(lambda text: 30 * text), unique=True, max_size=8))
def test_file_names_tell_names_apart(names):
    written = [file_name_of(name) for name in names]
    assert len(set(written)) == len(names)
    for name in written:
        assert len(name.encode()) < 150 and not set(name) & set('/\\:*?"<>|\0\n')
        assert name not in (".", "..")
