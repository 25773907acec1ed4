"""Training against documents that the base does not read whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from routerretriever import Collection, Document, TrainingConfig, train_expert
from routerretriever.data.splits import Split
from routerretriever.experts.negatives import Negatives
from routerretriever.experts.training_config import TrainedKinds

FILLER = " ".join(f"word{n % 40}" for n in range(60))
TOPICS = 6


@pytest.fixture(scope="module")
def collection():
    """Long documents that begin alike; what queries ask for is in their last passages."""
    documents = []
    for number in range(60):
        topic = number % TOPICS
        documents.append(Document(f"d{number}", f"{FILLER}. {FILLER}. word{50 + topic} word{50 + topic}."))
    documents += [Document(f"s{number}", f"word{number} word{number + 3}") for number in range(20)]
    splits = {}
    for name, numbers in (("train", range(40)), ("dev", range(40, 60))):
        queries = {f"{name}{n}": f"word{50 + n % TOPICS} word{70 + n}" for n in numbers}
        grades = {f"{name}{n}": {f"d{k}": 1 for k in range(n % TOPICS, 60, TOPICS)} for n in numbers}
        splits[name] = Split(name, queries, grades)
    return Collection(name="long", documents=tuple(documents), splits=splits)


def prepared(model, collection, **changes):
    documents = model.embed_collection(collection)
    config = TrainingConfig(**changes)
    return documents, Negatives(model, collection, collection.split("train"), documents, config)


def test_a_document_counts_by_the_passage_that_the_base_finds_nearest(model, collection):
    documents, negatives = prepared(model, collection)
    queries = model.encode_query(list(collection.split("train").queries.values()), expert="base")
    ranked = negatives.candidates([0, 7])
    assert ranked.vectors.shape == documents.vectors.shape
    counted = ranked.positive | ~ranked.ignored
    unit = documents.vectors / np.linalg.norm(documents.vectors, axis=1, keepdims=True)
    for number, row in enumerate((0, 7)):
        scores = unit @ queries[row]
        for document in range(len(documents.documents)):
            own = list(documents.passages_of(document))
            best = own[int(scores[own].argmax())]
            assert [place for place in own if counted[number, place]] == [best]
        positive = ranked.positive[number].nonzero().flatten().tolist()
        assert sorted(documents.owners[positive]) == list(range(row % TOPICS, 60, TOPICS))


@pytest.mark.parametrize(
    "changes", [{"in_batch": True}, {"corpus_limit": 10, "sampled_negatives": 40, "hard_negatives": 3}]
)
def test_so_it_does_where_only_some_documents_count(model, collection, changes):
    torch.manual_seed(0)
    documents, negatives = prepared(model, collection, **changes)
    _, all_of_them = prepared(model, collection)
    ranked, whole = negatives.candidates([3, 4, 5]), all_of_them.candidates([3, 4, 5])
    assert len(ranked.vectors) < len(documents.vectors)
    for number in range(3):
        own, same = (found.vectors[found.positive[number]].tolist() for found in (ranked, whole))
        assert own
        assert all(vector in same for vector in own)
    if not changes.get("in_batch"):
        assert all(negatives.mined[row] for row in range(40))


def test_the_document_that_is_the_query_is_left_out_with_all_its_passages(model, collection):
    queries = dict(collection.split("train").queries)
    own = {"d9" if key == "train0" else key: text for key, text in queries.items()}
    grades = {
        "d9" if key == "train0" else key: found for key, found in collection.split("train").qrels.items()
    }
    same = replace(
        collection,
        splits={"train": Split("train", own, grades)},
        ignore_identical_ids=True,
    )
    documents, negatives = prepared(model, same)
    ranked = negatives.candidates([0])
    assert ranked.ignored[0, list(documents.passages_of(9))].all()
    assert ranked.positive[0].sum() == 10


@pytest.mark.parametrize("kind", [TrainedKinds.LORA, TrainedKinds.MAP])
def test_experts_are_trained_and_measured_by_passages_or_beginnings(model, collection, kind):
    config = TrainingConfig(kind=kind, epochs=2, map_epochs=2)
    reports = {}
    for cut_off in (False, True):
        source = replace(collection, cut_off=cut_off)
        reports[cut_off] = train_expert(model, source, name="x", config=config, force=True)
    by_passage, by_beginning = reports[False], reports[True]
    assert (by_passage.documents.in_passages, by_passage.documents.passages) == (60, 200)
    assert by_beginning.documents.cut_off == 60
    assert by_passage.info.base_ndcg > by_beginning.info.base_ndcg
    assert by_passage.info.training != by_beginning.info.training
    assert by_passage.to_dict()["documents"]["in_passages"] == 60
