"""Real weights, real MTEB, the demo's own collections."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from documents import whole_passages
from sentence_transformers import SentenceTransformer

from routerretriever import Collection, Index, RouterRetriever, TrainingConfig, evaluate, train_expert
from routerretriever.encoder import text_input, tokens
from routerretriever.encoder.bulk_documents import encode_documents
from routerretriever.encoder.tokens import beginning
from routerretriever.errors import SynthesisError
from routerretriever.synthesis import SynthesisConfig, synthesize
from routerretriever.synthesis.language import knows_language
from routerretriever.synthesis.notes import UNKNOWN_LANGUAGE
from routerretriever.synthesis.passages import load_documents

sys.path.insert(0, str(Path(__file__).parents[2] / "demo"))
from make_collections import UNSEEN, write_all


@pytest.fixture(scope="module")
def collections(tmp_path_factory):
    """Those of the demo."""
    return {
        name: Collection.load(path)
        for name, path in write_all(tmp_path_factory.mktemp("collections")).items()
    }


@pytest.fixture(scope="module")
def base():
    """The published model, without experts."""
    return RouterRetriever.create(device="cpu")


@pytest.fixture(scope="module")
def demo(collections, tmp_path_factory):
    """Two experts of the demo, trained for a short while."""
    root = tmp_path_factory.mktemp("demo")
    torch.set_num_threads(2)
    model = RouterRetriever.create(device="cpu")
    for name in ("notam", "ops"):
        train_expert(model, collections[name], config=TrainingConfig(epochs=3, evaluations=1))
    model.build_library([collections["notam"], collections["ops"]])
    model.save_pretrained(root / "model")
    return root / "model", model, collections


def test_demo_collections_are_sound(collections):
    for name, collection in collections.items():
        assert ("train" in collection.splits) == (name not in UNSEEN)
        if name in UNSEEN:
            continue
        train, test = collection.split("train"), collection.split("test")
        asked = {document for grades in train.qrels.values() for document in grades}
        assert not asked & {document for grades in test.qrels.values() for document in grades}
        assert not set(train.queries.values()) & set(test.queries.values())


def test_base_is_the_published_model(base):
    assert base.encoder.base.id == "sentence-transformers/all-MiniLM-L6-v2"
    assert base.encoder.dimension == 384
    assert (base.encoder.branch_layer, base.encoder.num_layers) == (3, 6)


@pytest.mark.slow
def test_routing_pays_and_leaves_strangers_alone(demo):
    _, model, collections = demo
    result = evaluate(model, [collections[name] for name in ("notam", "ops", "garden")])
    notam, ops, garden = result.collections
    for seen in (notam, ops):
        assert seen.systems["routed"].mean() > seen.systems["base"].mean() + 0.3
        assert seen.systems["routed"].mean() > 0.95 * seen.systems["dataset_oracle"].mean()
    assert garden.systems["routed"].mean() >= garden.systems["base"].mean() - 0.01


@pytest.mark.slow
def test_search_finds_what_the_shorthand_means(demo, tmp_path):
    _, model, collections = demo
    index = Index.create(tmp_path / "index", model)
    for name in ("notam", "ops", "garden"):
        index.upsert(collections[name].documents, collection=name)
    query_id, text = next(iter(collections["ops"].split("test").queries.items()))
    (wanted,) = collections["ops"].split("test").qrels[query_id]
    assert wanted in [hit.id for hit in index.search(text, k=10)]


@pytest.mark.slow
def test_document_vectors_do_not_depend_on_the_number_of_threads(tmp_path):
    """Workers of a cluster have one thread each, a single process has as many as the machine has cores."""
    texts = [text for path in write_all(tmp_path).values() for text in Collection.load(path).contents]
    rng = np.random.default_rng(0)
    short = [texts[row] for row in rng.permutation(len(texts))[:200]]
    long = [" ".join(rng.choice(texts, size)) for size in rng.integers(2, 14, 40)]
    model, before = RouterRetriever.create(device="cpu"), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(encode_documents(model, short + long))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # mteb still calls names that the libraries below it deprecate
def test_mteb_evaluates_it_without_a_wrapper(demo, tmp_path):
    import mteb
    from mteb_task import retrieval_task

    path, model, collections = demo
    collection = collections["notam"]

    loaded = SentenceTransformer(str(path), trust_remote_code=True, device="cpu")
    ours = evaluate(model, [collection]).mean("routed")
    for candidate in (loaded, model):
        result = mteb.evaluate(
            candidate,
            retrieval_task(collection, "NotamRetrieval"),
            cache=None,
            overwrite_strategy="always",
            show_progress_bar=False,
        )
        score = result.task_results[0].get_score()
        assert score == pytest.approx(ours, abs=1e-3)


@pytest.mark.slow
def test_queries_cost_one_forward_pass_of_the_base(demo):
    """Multiplications counted by torch itself, not by a clock."""
    from torch.utils.flop_counter import FlopCounterMode

    path, _, collections = demo
    texts = list(collections["notam"].split("test").queries.values())[:32]
    plain = SentenceTransformer(str(path), trust_remote_code=True, device="cpu")
    counts = {}
    for name, arguments in (("base", {"expert": "base"}), ("routed", {})):
        features = plain.preprocess(texts)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            plain[0](features, task="query", **arguments)
        counts[name] = counter.get_total_flops()
    assert counts["routed"] < 1.05 * counts["base"]
    assert np.isfinite(counts["routed"])


def test_the_beginning_of_a_long_text_has_the_tokens_of_the_whole(base, collections, monkeypatch):
    encoder = base.encoder
    documents = [document.text for name in sorted(collections) for document in collections[name].documents]
    long = [
        " ".join(documents)[:60_000],
        "日本語の文章" * 5000,
        "x" * 40_000 + " and then words",
        " \n" * 20_000 + "end",
    ]
    cut = encoder.tokenized(long)["input_ids"]
    counts = encoder.token_counts(long)
    assert [len(beginning(text, encoder.tokenizer, encoder.max_seq_length)) < len(text) for text in long] == [
        True,
        True,
        False,
        False,
    ]
    monkeypatch.setattr(text_input, "beginning", lambda text, *_: text)
    monkeypatch.setattr(tokens, "beginning", lambda text, *_: text)
    assert torch.equal(cut, encoder.tokenized(long)["input_ids"])
    assert counts == encoder.token_counts(long)


GREEK = """Το δικαστήριο απέρριψε την έφεση επειδή υποβλήθηκε μετά την προθεσμία.
Η ενοικίαση παρατείνεται αυτόματα εάν κανένα μέρος δεν την καταγγείλει.
Ο εργοδότης οφείλει να καταβάλει τον μισθό στο τέλος κάθε μήνα.
Η αγορά ακινήτου απαιτεί συμβολαιογραφικό έγγραφο και μεταγραφή.
Οι κληρονόμοι ευθύνονται για τα χρέη μόνο μέχρι την αξία της κληρονομιάς.
Ο καταναλωτής μπορεί να επιστρέψει το προϊόν μέσα σε δεκατέσσερις ημέρες.
Η άδεια οδήγησης αφαιρείται για υπερβολική ταχύτητα κοντά σε σχολείο.
Το νοσοκομείο ενημερώνει τον ασθενή για τους κινδύνους της επέμβασης.
Η εταιρεία δημοσιεύει τις οικονομικές καταστάσεις κάθε άνοιξη.
Ο γείτονας δεν επιτρέπεται να φυτέψει δέντρα πολύ κοντά στον φράχτη.
Τα δεδομένα των πελατών διαγράφονται μετά τη λήξη της σύμβασης.
Η κοινότητα συντηρεί τους δρόμους και τον φωτισμό του χωριού."""
CHINESE = """法院驳回上诉，因为上诉状在期限之后提交。
如果双方都不解除合同，租约自动延长一年。
雇主应当在每月月底支付员工的工资。
购买房屋需要公证书以及产权登记手续。
继承人只在遗产价值范围内承担债务责任。
消费者可以在十四天之内退回商品并要求退款。
在学校附近超速行驶的司机将被吊销驾驶执照。
医院必须告知患者手术的风险和可能的后果。
公司每年春天公布财务报表和审计报告。
邻居不得在围墙附近种植过高的树木。
客户数据在合同终止之后必须删除。
村委会负责维修道路和安装路灯。"""


def documents_of(text, path):
    """Every two sentences of a text make a document."""
    pairs = [" ".join(pair) for pair in itertools.permutations(text.splitlines(), 2)]
    lines = [json.dumps({"_id": f"d{n}", "text": pair}, ensure_ascii=False) for n, pair in enumerate(pairs)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("method", ["crops", "titles"])
def test_a_language_that_the_base_does_not_know_is_told(base, tmp_path, method):
    """Letters of Greek are in its vocabulary and signs of Chinese are in part, words of neither."""
    config = SynthesisConfig(method=method, queries=300)
    report = synthesize(
        documents_of(GREEK, tmp_path / "greek.jsonl"), tmp_path / "greek", model=base, config=config
    )
    assert UNKNOWN_LANGUAGE in report.notes
    source = documents_of(CHINESE, tmp_path / "chinese.jsonl")
    try:
        assert UNKNOWN_LANGUAGE in synthesize(source, tmp_path / "chinese", model=base, config=config).notes
    except SynthesisError as error:
        assert "a base that knows the language" in str(error)
    for written in (source, tmp_path / "greek.jsonl"):
        assert not knows_language(base.encoder.tokenizer, whole_passages(load_documents(written)[1]).items)


def test_languages_that_the_base_knows_are_not_doubted(base, collections):
    for collection in collections.values():
        assert knows_language(base.encoder.tokenizer, whole_passages(collection.documents).items)
