"""A base of two encoders: documents by one, queries and experts by a smaller one in the same space."""

import json
import shutil

import numpy as np
import pytest
from bases import edit
from commands import run, run_json
from models import TEXTS, layers_of, load, with_library
from pairs import document_base, query_base, static_query_base
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router
from serving import running, wait_until_ready
from tiny import make_checkpoint, random_adapter

from routerretriever import (
    Collection,
    Index,
    RouterRetriever,
    TrainingConfig,
    compile_model,
    diagnose,
    evaluate,
    open_model,
    train_expert,
)
from routerretriever.data.document import Document
from routerretriever.encoder.token_ids import TokenIds
from routerretriever.engine.compiled_model import CompiledModel
from routerretriever.errors import EngineError, ExpertError, FingerprintError, ModelError
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.server import Settings
from routerretriever.sharing.model_card import model_card

LONG = " ".join(TEXTS)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return document_base(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="module")
def queries(documents, tmp_path_factory):
    """Can be opened."""
    return query_base(tmp_path_factory.mktemp("queries"), documents)


@pytest.fixture(scope="module")
def static(documents, tmp_path_factory):
    """Cannot be opened."""
    prompts = {"query": "word9 ", "document": "word8 "}
    return static_query_base(tmp_path_factory.mktemp("static"), documents, TEXTS, prompts=prompts)


def create(base, query=None, **options):
    return RouterRetriever.create(
        str(base), query_base=None if query is None else str(query), device="cpu", **options
    )


def with_experts(base, query, kinds):
    model = create(base, query)
    for number, kind in enumerate(kinds):
        layers = layers_of(model.encoder, kind)
        model.add_expert(f"e{number}", random_adapter(layers, number, rank=2 + number))
    return with_library(model)


@pytest.mark.parametrize("side", ["queries", "static"])
def test_each_side_has_its_own_encoder(documents, side, request):
    query = request.getfixturevalue(side)
    model, alone = create(documents, query), create(documents)
    plain = SentenceTransformer(str(query), device="cpu")
    texts = [*TEXTS, LONG]
    np.testing.assert_allclose(model.encode_document(texts), alone.encode_document(texts), atol=1e-6)
    np.testing.assert_allclose(model.encode(texts), alone.encode_document(texts), atol=1e-6)
    np.testing.assert_allclose(model.embed_texts(texts), alone.embed_texts(texts), atol=1e-6)
    wanted = plain.encode_query(texts)
    np.testing.assert_allclose(model.encode_query(texts), wanted, atol=1e-5)
    np.testing.assert_allclose(model.encode_routed(texts).vectors, wanted, atol=1e-5)
    assert abs(wanted - alone.encode_query(texts)).max() > 1e-3
    assert model.encoder.aligned > 0.9
    assert (model.query_prompt, model.document_prompt) == ("word9 " if side == "static" else None, None)
    ids = [TokenIds((12, 13))]
    np.testing.assert_allclose(model.encode_documents(ids), alone.encode_documents(ids), atol=1e-6)
    assert model.cut(Document("d", LONG)) == alone.cut(Document("d", LONG))
    with pytest.raises(ExpertError, match="Documents are always"):
        model.encode_document(["a"], expert="merged")


def test_documents_have_the_fingerprint_of_their_own_encoder(documents, queries, static, tmp_path):
    model, alone, other = create(documents, queries), create(documents), create(documents, static)
    assert model.fingerprint == alone.fingerprint == other.fingerprint
    assert len({m.base_fingerprint for m in (model, alone, other, create(queries))}) == 4
    assert model.identity != alone.identity == alone.fingerprint
    index = Index.create(tmp_path / "index", alone)
    index.upsert([Document(str(row), text) for row, text in enumerate(TEXTS)])
    found = Index.open(tmp_path / "index", model).search(TEXTS[3], k=3)
    assert found[0].id == "3"
    with pytest.raises(FingerprintError):
        Index.open(tmp_path / "index", create(queries))


@pytest.mark.parametrize("kind", ["layers", "maps"])
def test_a_saved_pair_is_loaded_as_it_was(documents, queries, static, tmp_path, kind):
    query, kinds = (queries, ("lora", "map", "both")) if kind == "layers" else (static, ("map",) * 3)
    model, folder = with_experts(documents, query, kinds), tmp_path / "model"
    model.save_pretrained(folder)
    loaded = load(folder)
    assert json.loads((folder / "routerretriever.json").read_text())["format_version"] == 4
    assert (loaded.fingerprint, loaded.base_fingerprint) == (model.fingerprint, model.base_fingerprint)
    assert loaded.encoder.aligned == model.encoder.aligned
    assert loaded.encoder.documents.base == model.encoder.documents.base
    for expert in (None, "base", "merged", "e2"):
        np.testing.assert_allclose(
            loaded.encode_query(TEXTS, expert=expert), model.encode_query(TEXTS, expert=expert), atol=1e-6
        )
    np.testing.assert_allclose(loaded.encode_document(TEXTS), model.encode_document(TEXTS), atol=1e-6)
    plain = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(plain.encode_document(TEXTS), model.encode_document(TEXTS), atol=1e-6)
    np.testing.assert_allclose(plain.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-5)
    assert [finding for finding in diagnose(folder) if finding.severity == "error"] == []

    loaded.remove_expert("e1")
    loaded.save_experts(folder)
    again = load(folder)
    assert list(again.experts) == ["e0", "e2"] and again.fingerprint == model.fingerprint
    card = (folder / "README.md").read_text()
    assert f"another encoder, `{documents.name}`" in card and f"`{query.name}`" in card
    assert card == model_card(again.encoder.parts(), again.document_length)


def test_other_weights_of_documents_are_noticed(documents, static, tmp_path):
    with_experts(documents, static, ("map",)).save_pretrained(tmp_path / "model")
    other = make_checkpoint(tmp_path / "other")
    shutil.copyfile(documents / "config.json", other / "config.json")
    query_base(tmp_path / "noisy", documents)
    shutil.copyfile(tmp_path / "noisy/model.safetensors", tmp_path / "model/documents/model.safetensors")
    with pytest.raises(FingerprintError, match="belong to another base"):
        load(tmp_path / "model")
    assert any(finding.check == "base" for finding in diagnose(tmp_path / "model"))


def test_experts_of_one_encoder_do_not_fit_the_pair(documents, queries, tmp_path):
    alone = create(queries)
    alone.add_expert("e", random_adapter(alone.encoder.lora_layers, 1))
    alone.save_pretrained(tmp_path / "alone")
    create(documents, queries).save_pretrained(tmp_path / "pair")
    said = run("experts", "add", tmp_path / "pair", tmp_path / "alone", "e", code=1)
    assert "base" in said.stderr


@pytest.mark.slow
def test_a_compiled_pair(documents, queries, static, tmp_path):
    folder = tmp_path / "model"
    model = with_experts(documents, queries, ("lora", "map", "both"))
    model.save_pretrained(folder)
    compiled_engine = compile_model(folder)
    assert compiled_engine.bytes > sum(file.stat().st_size for file in (folder / "engine").glob("*.bin"))
    compiled = open_model(folder)
    assert isinstance(compiled, CompiledModel) and compiled.fingerprint == model.fingerprint
    for expert in (None, "base", "merged", "e2"):
        np.testing.assert_allclose(
            compiled.encode_query(TEXTS, expert=expert), model.encode_query(TEXTS, expert=expert), atol=1e-5
        )
    texts = [*TEXTS, LONG]
    np.testing.assert_allclose(compiled.encode_document(texts), model.encode_document(texts), atol=1e-5)
    assert compiled.token_counts(texts) == model.token_counts(texts)
    assert compiled.cut(Document("d", LONG)) == model.cut(Document("d", LONG))
    assert not compile_model(folder).written
    compiled.remove_expert("e1")
    compiled.save_experts(folder)
    assert list(load(folder).experts) == ["e0", "e2"]
    shutil.rmtree(folder / "documents" / "engine")
    with pytest.raises(EngineError, match="no compiled engine"):
        open_model(folder, engine="onnx")
    assert compile_model(folder).written

    with_experts(documents, static, ("map",)).save_pretrained(tmp_path / "static")
    with pytest.raises(EngineError, match="With torch the model can be used as it is"):
        compile_model(tmp_path / "static")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TrainedKinds.LORA, TrainedKinds.MAP])
def test_an_expert_is_trained_against_the_documents_of_the_other(
    documents, queries, static, make_collection, kind
):
    query = queries if kind == TrainedKinds.LORA else static
    collection, model = Collection.load(make_collection("aliases")), create(documents, query)
    config = TrainingConfig(kind=kind, epochs=8, map_epochs=10, map_learning_rate=0.03, patience=100)
    report = train_expert(model, collection, config=config, force=True)
    assert report.kind == str(kind) and report.info.selection_gain > 0.02
    model.build_library([collection])
    (result,) = evaluate(model, [collection], split="train").collections
    assert result.systems["expert:aliases"].mean() > result.systems["base"].mean()


@pytest.mark.slow
def test_the_command_makes_a_pair(documents, static, make_collection, tmp_path):
    collection, model = make_collection("aliases"), tmp_path / "model"
    options = ("--base", documents, "--query-base", static)
    said = run("train", model, collection, *options, "--force", "--epochs", "3")
    assert "so the expert is a map" in said.stderr
    run("train", model, collection, *options, "--force", "--epochs", "1")
    said = run("train", model, collection, "--query-base", documents, "--force", code=1)
    assert f"has the base '{static.name}', not '{documents}'. Leave out --query-base" in said.stderr
    run("library", model, collection)
    run("index", model, tmp_path / "index", collection)
    assert len(run_json("search", tmp_path / "index", "word1 word2")["hits"]) == 10
    run("doctor", model)


def router(queries, documents, folder, **options):
    """A model of Sentence Transformers that is a pair itself."""
    sides = [list(SentenceTransformer(str(path), device="cpu")) for path in (queries, documents)]
    module = Router.for_query_document(query_modules=sides[0], document_modules=sides[1])
    SentenceTransformer(modules=[module], device="cpu", **options).save_pretrained(str(folder))
    return folder


def test_a_router_of_sentence_transformers_is_a_pair(documents, queries, tmp_path):
    folder = router(queries, documents, tmp_path / "router", prompts={"query": "", "document": ""})
    model, plain = create(folder), SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(model.encode_query(TEXTS), plain.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(model.encode_document(TEXTS), plain.encode_document(TEXTS), atol=1e-5)
    assert (
        model.fingerprint == create(documents).fingerprint[:32] + model.fingerprint[32:]
        and model.encoder.is_opened
    )
    model.add_expert("e", random_adapter(model.encoder.lora_layers, 1))
    model.save_pretrained(tmp_path / "model")
    np.testing.assert_allclose(load(tmp_path / "model").encode_query(TEXTS), model.encode_query(TEXTS))
    with pytest.raises(ModelError, match="Give it as the base alone"):
        create(folder, queries)


def test_a_router_of_other_routes_is_refused(documents, tmp_path):
    modules = list(SentenceTransformer(str(documents), device="cpu"))
    plain = SentenceTransformer(modules=[Router({"text": modules}, default_route="text")], device="cpu")
    plain.save_pretrained(str(tmp_path / "base"))
    with pytest.raises(ModelError, match="has the routes text; only query and document are known"):
        create(tmp_path / "base")


def test_encoders_that_are_not_aligned_are_refused(documents, tmp_path):
    other = query_base(tmp_path / "other", documents, noise=3.0)
    with pytest.raises(ModelError, match=r"not aligned: of 64 short texts, \d% .* at least 50% is expected"):
        create(documents, other)
    with pytest.raises(ModelError, match="not aligned"):
        create(router(other, documents, tmp_path / "router"))


def test_encoders_of_other_dimensions_are_refused(documents, tmp_path):
    from bases import save_static

    with pytest.raises(ModelError, match="vectors of 48 numbers and the base of documents of 32"):
        create(documents, save_static(tmp_path / "static"))


def test_a_prompt_for_all_texts_is_refused(documents, static, tmp_path):
    base = query_base(tmp_path / "base", documents, prompts={"all": "word1 "}, default_prompt_name="all")
    with pytest.raises(ModelError, match="'all' before all texts .*remove default_prompt_name"):
        create(base, static)
    edit(base / "config_sentence_transformers.json", default_prompt_name=None)
    create(base, query_base(tmp_path / "q", documents))


@pytest.mark.slow
def test_a_served_pair_reads_ids_of_each_sides_own_tokeniser(documents, static, tmp_path):
    model = with_experts(documents, static, ("map",))
    model.save_pretrained(tmp_path / "model")
    with running(Settings(model=tmp_path / "model", index=None)) as client:
        wait_until_ready(client)

        def embed(**body):
            return client.post("/v1/embeddings", json=body)

        answer = embed(input=TEXTS[:3])
        found = np.array([row["embedding"] for row in answer.json()["data"]])
        np.testing.assert_allclose(found, model.encode_query(TEXTS[:3]), atol=1e-5)
        answer = embed(input=[[12, 13]], input_type="document")
        found = np.array([row["embedding"] for row in answer.json()["data"]])
        np.testing.assert_allclose(found, model.encode_documents([TokenIds((12, 13))]), atol=1e-5)
        assert answer.json()["usage"]["prompt_tokens"] == 4
        refused = embed(input=[[12, 13]])
        assert refused.status_code == 400 and "reads texts, not token ids" in refused.text
