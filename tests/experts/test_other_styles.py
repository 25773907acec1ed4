"""What an expert does to other ways of asking."""

from dataclasses import replace

import pytest
from training import QUICK

from routerretriever import RouterRetriever, train_expert
from routerretriever.experts import other_styles
from routerretriever.experts.compare import diff_experts
from routerretriever.storage.model_folder import read_expert_info


def measured(model, collection, **changes):
    config = replace(QUICK, **changes)
    report = train_expert(model, collection, name="expert", config=config, force=True)
    return report.info.other_styles


def test_other_ways_of_asking_are_measured_and_remembered(model, collection, tmp_path):
    found = measured(model, collection)
    assert found.queries >= other_styles.FEWEST
    assert 0 < found.base_ndcg <= 1 and 0 < found.expert_ndcg <= 1
    assert f"{100 * found.gain:+.1f} points" in str(found)

    model.save_pretrained(tmp_path / "m")
    assert read_expert_info(tmp_path / "m" / "experts" / "expert").other_styles == found
    again = RouterRetriever.from_pretrained(tmp_path / "m", device="cpu")
    assert again.experts["expert"].other_styles == found
    assert f"Other ways of asking: {found}." in (tmp_path / "m" / "README.md").read_text()


def test_an_expert_that_changes_nothing_loses_nothing(model, collection):
    found = measured(model, collection, learning_rate=1e-9)
    assert found.gain == pytest.approx(0, abs=1e-9)
    assert found.base_ndcg == measured(model, collection, anchor=10.0).base_ndcg  # of the same queries


def test_ids_of_documents_that_are_numbers_are_no_ids_of_queries(model, collection):
    names = {document.id: str(number) for number, document in enumerate(collection.documents)}
    splits = {}
    for name, split in collection.splits.items():
        judged = {
            query: {names[document]: grade for document, grade in of.items()}
            for query, of in split.qrels.items()
        }
        splits[name] = replace(split, qrels=judged)
    documents = tuple(replace(document, id=names[document.id]) for document in collection.documents)
    numbered = replace(collection, documents=documents, splits=splits, ignore_identical_ids=True)
    assert measured(model, numbered, learning_rate=1e-9) == measured(model, collection, learning_rate=1e-9)


@pytest.mark.parametrize("method", ["crops", "titles"])
def test_queries_of_the_same_making_say_nothing_of_other_styles(model, collection, method):
    query = next(iter(collection.split("train").queries))
    assert measured(model, replace(collection, generated={query: method}), epochs=1) is None


def test_few_documents_give_no_figure(model, collection, monkeypatch):
    monkeypatch.setattr(other_styles, "FEWEST", 10_000)
    assert measured(model, collection, epochs=1) is None


def test_a_comparison_of_experts_shows_the_gain(model, collection):
    measured(model, collection)
    model.add_expert("imported", model.state.experts["expert"])
    found = diff_experts(model, "expert", "imported")
    gain = model.experts["expert"].other_styles.gain
    assert found.cards["gain_on_other_styles"] == (gain, None)
    assert "other_styles" not in found.cards
