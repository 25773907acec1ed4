"""Which queries are kept, and which are held out."""

from documents import texts, whole_passages

from routerretriever import Collection
from routerretriever.data.document import Document
from routerretriever.data.text import text_key
from routerretriever.synthesis import SynthesisConfig, synthesize
from routerretriever.synthesis.filters import MERGED, Dropped, distinct
from routerretriever.synthesis.held_out import held_out_ids
from routerretriever.synthesis.passages import MIN_PASSAGES
from routerretriever.synthesis.queries import Generated


def passages_of(*contents):
    filler = [f"filler{n} text{n} of{n}" for n in range(MIN_PASSAGES)]
    found = whole_passages([Document(f"d{n}", text) for n, text in enumerate([*contents, *filler])])
    by_content = {passage.content: passage for passage in found.items}
    return [by_content[" ".join(text.split())] for text in contents], found.items


def test_normalised_queries():
    assert text_key(" What IS  ＡＴＰ? ") == text_key("what is atp")


def test_distinct_queries_and_why_the_others_went():
    (one, two), everything = passages_of("alpha beta gamma delta", "epsilon zeta eta theta")
    made = [
        Generated(one, "alpha beta", "crops"),
        Generated(one, "Alpha  beta.", "crops"),
        Generated(two, "ALPHA beta", "titles"),
        Generated(one, "a", "crops"),
        Generated(one, "x" * 500, "crops"),
        Generated(one, "alpha beta gamma delta", "crops"),
        *(Generated(passage, "too general", "crops") for passage in everything[:4]),
    ]
    dropped = Dropped()
    queries = distinct(made, dropped)
    assert [query.text.lower() for query in queries] == ["alpha beta"]
    assert set(queries[0].passages) == {one, two}
    assert dropped.counts == {
        "a repetition": 1,
        "shorter than 3 letters": 1,
        "longer than 400 letters": 1,
        "a copy of its passage": 1,
        "made for more than 3 passages": 4,
        MERGED: 1,
    }
    assert len(queries) + sum(dropped.counts.values()) == len(made)
    assert dropped.examples["shorter than 3 letters"] == ["a"]
    assert distinct(made[::-1], Dropped()) == queries


def test_only_queries_whose_passage_is_found_are_kept(model, bare, tmp_path):
    few = synthesize(bare, tmp_path / "few", model=model, config=SynthesisConfig(method="crops", k=1))
    many = synthesize(bare, tmp_path / "many", model=model, config=SynthesisConfig(method="crops", k=80))
    assert few.dropped["passage not among the first 1"] > 0
    assert not any("not among" in reason for reason in many.dropped)
    assert few.kept < many.kept
    collection = Collection.load(tmp_path / "few")
    queries = {**collection.split("train").queries, **collection.split("dev").queries}
    found = model.similarity(
        model.encode_query(list(queries.values()), expert="base"), model.embed_collection(collection).vectors
    ).argmax(dim=1)
    judged = {**collection.split("train").qrels, **collection.split("dev").qrels}
    for query, column in zip(queries, found.tolist(), strict=True):
        assert collection.documents[column].id in judged[query]


def test_all_queries_of_a_passage_are_on_one_side(model, bare, tmp_path):
    report = synthesize(bare, tmp_path / "out", model=model, config=SynthesisConfig(method="mixture", k=40))
    collection = Collection.load(tmp_path / "out")
    train, held_out = collection.train_and_held_out()
    assert (len(train), len(held_out)) == (report.train, report.held_out)
    sides = [
        {document for grades in side.qrels.values() for document in grades} for side in (train, held_out)
    ]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert 0.1 < report.held_out / report.kept <= 0.2


def test_passages_that_share_a_query_stay_together():
    items = whole_passages([Document(str(n), text) for n, text in enumerate(texts(30))]).items
    shared = [Generated(p, "shared words", "crops") for p in items[:3]]
    own = [Generated(p, f"own words {n}", "crops") for n, p in enumerate(items)]
    queries = distinct([*shared, *own], Dropped())
    held_out = held_out_ids(queries)
    group = {query.id for query in queries if set(query.passages) & set(items[:3])}
    assert len(group) == 4
    assert group <= held_out or not group & held_out
