"""MTEB on a task of its own kind that needs no hub, and what it is told of the training data."""

import numpy as np
import pytest
from mteb_task import retrieval_task

from routerretriever import Collection, RouterRetriever, evaluate
from routerretriever.errors import ExpertError
from routerretriever.lora.expert_info import ExpertInfo

# MTEB still calls what Sentence Transformers has renamed, and an option of its own that it deprecates
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*get_sentence_embedding_dimension:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The fill_missing parameter:DeprecationWarning"),
]


@pytest.fixture
def model(built):
    return RouterRetriever.from_pretrained(built / "model", device="cpu")


@pytest.fixture(scope="module")
def collection(built):
    return Collection.load(built / "collections" / "alpha")


@pytest.fixture(scope="module")
def task(collection):
    return retrieval_task(collection, "AlphaRetrieval")


def run(model, task):
    import mteb

    return mteb.evaluate(model, task, cache=None, overwrite_strategy="always", show_progress_bar=False)


@pytest.mark.parametrize("prompts", [{}, {"query": "word150 word151 ", "document": "word152 "}])
def test_queries_go_through_the_router_and_documents_through_the_base(
    model, task, collection, monkeypatch, prompts
):
    from routerretriever.integrations.mteb import model_meta

    model.prompts = prompts
    seen = {"encode_query": [], "encode_document": [], "encode": []}
    for name in seen:
        original = getattr(model, name)

        def spy(texts, *args, _name=name, _original=original, **kwargs):
            answer = _original(texts, *args, **kwargs)
            seen[_name].append((list(texts), np.asarray(answer)))
            return answer

        if name != "encode":
            monkeypatch.setattr(model, name, spy)
    meta = model_meta(model, "me/alpha", datasets={"base": [], "alpha": [], "beta": [], "gamma": []})
    assert meta.use_instructions is bool(prompts)
    result = run(meta, task)
    monkeypatch.undo()
    queries = dict(
        pair for texts, vectors in seen["encode_query"] for pair in zip(texts, vectors, strict=True)
    )
    documents = dict(
        pair for texts, vectors in seen["encode_document"] for pair in zip(texts, vectors, strict=True)
    )
    assert set(queries) == set(collection.split("test").queries.values())
    assert {text.strip() for text in documents} == {d.text for d in collection.documents}
    np.testing.assert_allclose(list(queries.values()), model.encode_query(list(queries)), atol=1e-5)
    np.testing.assert_allclose(list(documents.values()), model.encode_document(list(documents)), atol=1e-5)
    changed = np.abs(
        model.encode_query(list(queries)) - model.encode_query(list(queries), expert="base")
    ).max()
    assert changed > 1e-3
    score = result.task_results[0].get_score()
    assert score == pytest.approx(evaluate(model, [collection]).mean("routed"), abs=1e-3)
    assert result.model_name == "me/alpha"


def test_without_a_wrapper_it_scores_the_same(model, task):
    from routerretriever.integrations.mteb import model_meta

    plain = run(model, task).task_results[0].get_score()
    assert run(model_meta(model), task).task_results[0].get_score() == pytest.approx(plain)


def trained_on(model, **collections):
    for name, collection in collections.items():
        model.state = model.state.with_info(name, ExpertInfo(collection, 10))


def test_the_training_data_of_every_expert_decides_what_is_zero_shot(model):
    from routerretriever.integrations.mteb import model_meta

    assert model_meta(model).training_datasets is None  # imported experts: nobody knows
    assert model_meta(model).is_zero_shot_on(["SciFact"]) is None
    trained_on(model, alpha="BeIR/scifact", beta="nfcorpus, my own notes", gamma="beir/fiqa/train")
    assert model_meta(model).training_datasets is None  # the base is not in MTEB's list
    meta = model_meta(model, datasets={"base": ["ArguAna"]})
    pilots = {"alpha", "beta"}  # collections of the library, which are no tasks
    assert {"SciFact", "NFCorpus", "FiQA2018", "ArguAna", "my own notes"} | pilots <= meta.training_datasets
    for task in ("SciFact", "NFCorpus", "FiQA2018", "ArguAna"):
        assert meta.is_zero_shot_on([task]) is False, task
    assert meta.is_zero_shot_on(["SCIDOCS", "TRECCOVID"]) is True
    assert meta.zero_shot_percentage(["SciFact", "SCIDOCS"]) == 50
    corrected = model_meta(model, datasets={"base": [], "alpha": ["SCIDOCS"]})
    assert corrected.is_zero_shot_on(["SciFact"]) and not corrected.is_zero_shot_on(["SCIDOCS"])
    with pytest.raises(ExpertError, match="nobody"):
        model_meta(model, datasets={"nobody": []})


def test_the_source_of_generated_queries_is_training_data(model):
    from routerretriever.integrations.mteb import model_meta

    trained_on(model, beta="my own notes", gamma="more notes")
    info = ExpertInfo("my-domain", 10, generated={"crops": 10}, source="scifact, nfcorpus")
    model.state = model.state.with_info("alpha", info)
    meta = model_meta(model, datasets={"base": []})
    assert {"my-domain", "SciFact", "NFCorpus"} <= meta.training_datasets
    assert meta.is_zero_shot_on(["SciFact"]) is False and meta.is_zero_shot_on(["SCIDOCS"]) is True


def test_what_mteb_knows_of_the_base_counts(model, monkeypatch):
    from routerretriever.integrations.mteb import model_meta
    from routerretriever.lora.expert_info import BaseInfo

    trained_on(model, alpha="scifact", beta="scifact", gamma="scifact")
    monkeypatch.setattr(model.encoder, "base", BaseInfo("sentence-transformers/all-MiniLM-L6-v2"))
    meta = model_meta(model)
    assert meta.adapted_from == "sentence-transformers/all-MiniLM-L6-v2"
    assert {"SciFact", "NQ"} <= meta.training_datasets  # the second is MTEB's own knowledge
    assert meta.is_zero_shot_on(["NQ"]) is False


def test_results_of_before_and_after_a_change_stay_apart(model):
    from routerretriever.integrations.mteb import model_meta

    first = model_meta(model)
    assert first.name == "routerretriever/base-routed"
    assert model_meta(model).revision == first.revision
    adapter = model.state.experts["gamma"]
    model.add_expert("gamma", adapter.scaled(0.5), replace=True)
    assert model_meta(model).revision != first.revision
    assert model_meta(model, revision="v2").revision == "v2"
    assert (first.embed_dim, first.max_tokens) == (model.encoder.dimension, model.max_seq_length)
