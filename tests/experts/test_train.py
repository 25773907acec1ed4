import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import write_beir
from training import QUICK

from routerretriever import Collection, RouterRetriever, TrainingConfig, train_expert
from routerretriever.data.splits import is_measured_on
from routerretriever.errors import CollectionError, ExpertError, NoGainError
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.evaluation.statistics import paired_p_value
from routerretriever.experts import held_out
from routerretriever.experts.checkpoint import Checkpoint
from routerretriever.experts.negatives import Negatives, ranking_loss
from routerretriever.experts.trainer import Trainer
from routerretriever.experts.training_config import PRESETS


def held_out_score(model, collection, expert):
    _, held_out = collection.train_and_held_out()
    vectors = model.encode_query(list(held_out.queries.values()), expert=expert)
    return ndcg_at_10(vectors, held_out, model.embed_collection(collection), collection).mean()


def test_expert_learns_and_reports_what_it_gained(model, make_collection):
    collection = Collection.load(make_collection("aliases"))
    report = train_expert(model, collection, config=QUICK)
    info = model.experts["aliases"]
    assert info.gain > 0.05
    assert info == report.info
    assert report.p_value < 0.05
    assert info.base_ndcg == pytest.approx(held_out_score(model, collection, "base"), abs=1e-6)
    chosen = held_out_score(model, collection, "aliases")
    assert info.selection_gain + info.base_ndcg == pytest.approx(chosen, abs=1e-6)
    assert max(report.history) == pytest.approx(chosen)


def scores_of(model, collection, expert, measuring):
    """nDCG@10 of the held-out queries on one side."""
    held_out = collection.train_and_held_out()[1]
    part = held_out.restrict(q for q, text in held_out.queries.items() if is_measured_on(text) == measuring)
    vectors = model.encode_query(list(part.queries.values()), expert=expert)
    return ndcg_at_10(vectors, part, model.embed_collection(collection), collection)


def test_the_published_gain_is_of_queries_that_chose_nothing(model, make_collection, monkeypatch):
    monkeypatch.setattr(held_out, "FEW_HELD_OUT", 10)
    collection = Collection.load(make_collection("aliases", documents=120))
    report = train_expert(model, collection, config=QUICK, force=True)
    info = report.info
    assert info.selection == "split"
    for measuring, count, gain in (
        (True, info.held_out, info.gain),
        (False, info.selected_by, info.selection_gain),
    ):
        base = scores_of(model, collection, "base", measuring)
        expert = scores_of(model, collection, "aliases", measuring)
        assert (len(base), gain) == (count, pytest.approx((expert - base).mean(), abs=1e-6))
        if measuring:
            assert info.p_value == pytest.approx(paired_p_value(expert, base))
    assert max(report.history) == pytest.approx(scores_of(model, collection, "aliases", False).mean())


def test_judgements_of_the_measuring_part_choose_nothing(model, make_collection, monkeypatch):
    """The weights are the same, whatever is relevant to the queries that measure."""
    monkeypatch.setattr(held_out, "FEW_HELD_OUT", 10)
    collection = Collection.load(make_collection("aliases", documents=120))
    dev = collection.splits["dev"]
    others = {}
    for query_id, text in dev.queries.items():
        others[query_id] = {collection.document_ids[0]: 1} if is_measured_on(text) else dev.qrels[query_id]
    changed = replace(collection, splits={**collection.splits, "dev": replace(dev, qrels=others)})
    config = replace(QUICK, adapter_weights=(0.5, 0.75))
    one = train_expert(model, collection, name="one", config=config, force=True)
    two = train_expert(model, changed, name="two", config=config, force=True)
    assert model.state.experts["one"].fingerprint == model.state.experts["two"].fingerprint
    assert one.history == two.history and one.info.gain != two.info.gain


def test_an_expert_that_was_chosen_by_luck_is_refused(model, make_collection):
    """Judgements are shuffled: the best of many states gains on the queries that chose it, and on no others."""
    collection = Collection.load(make_collection("aliases", documents=120))
    rng, splits = np.random.default_rng(3), {}
    for name, split in collection.splits.items():
        names = list(rng.permutation(list(split.queries)))
        qrels = {query: split.qrels[other] for query, other in zip(split.queries, names, strict=True)}
        splits[name] = replace(split, qrels=qrels)
    lucky = replace(collection, splits=splits)
    config = replace(QUICK, learning_rate=1e-3)
    with pytest.raises(NoGainError, match="that did not choose it"):
        train_expert(model, lucky, config=config)
    info = train_expert(model, lucky, config=config, force=True).info
    assert info.selection_gain > 0 and not info.gains_significantly(0.05)


def test_the_smallest_update_that_keeps_the_gain_is_taken(model, make_collection):
    collection = Collection.load(make_collection("aliases"))
    full = train_expert(model, collection, name="full", config=QUICK)
    report = train_expert(
        model, collection, name="small", config=replace(QUICK, adapter_weights=(1.0, 0.01, 0.9))
    )
    assert report.adapter_weight in (0.9, 1.0)  # a hundredth changes no ranking
    info = report.info
    assert info.selection_gain >= 0.98 * full.info.selection_gain
    chosen = held_out_score(model, collection, "small")
    assert info.base_ndcg + info.selection_gain == pytest.approx(chosen, abs=1e-6)
    again = train_expert(
        model, collection, name="tiny", config=replace(QUICK, adapter_weights=(0.9,)), force=True
    )
    ratio = model.state.experts["tiny"].scaling / model.state.experts["full"].scaling
    assert ratio == pytest.approx(again.adapter_weight)


def test_experts_of_crops_alone_stay_nearer_to_the_base(model, make_collection):
    collection = Collection.load(make_collection("aliases"))
    queries = collection.split("train").queries
    config = replace(QUICK, adapter_weights=(0.9, 1.0))
    for way, weights in (("crops", {0.5}), ("titles", {0.9, 1.0})):
        marked = replace(collection, generated=dict.fromkeys(queries, way))
        report = train_expert(model, marked, name=way, config=config)
        assert report.adapter_weight in weights
        chosen = report.info.base_ndcg + report.info.selection_gain
        assert chosen == pytest.approx(held_out_score(model, collection, way), abs=1e-6)
    part = replace(collection, generated={next(iter(queries)): "crops"})
    assert train_expert(model, part, name="part", config=config).adapter_weight in (0.9, 1.0)


def test_a_generalist_learns_from_several_collections(model, make_collection):
    collections = [Collection.load(make_collection(name, shift)) for name, shift in (("x", 1), ("y", 5))]
    report = train_expert(model, collections, config=QUICK)
    assert (report.expert, report.info.collection) == ("generalist", "x, y")
    assert report.info.queries == sum(len(c.train_and_held_out()[0]) for c in collections)
    gains = [held_out_score(model, c, "generalist") - held_out_score(model, c, "base") for c in collections]
    assert min(gains) > 0.02
    assert report.info.selection_gain == pytest.approx(np.mean(gains), abs=1e-6)


def test_max_queries_limits_the_training(model, make_collection):
    collection = Collection.load(make_collection("aliases"))
    report = train_expert(model, collection, config=replace(QUICK, epochs=1, max_queries=20), force=True)
    assert report.info.queries == 20
    assert report.steps == 2


def test_second_training_on_a_collection_embeds_nothing(model, make_collection, monkeypatch):
    collection = Collection.load(make_collection("aliases"))
    train_expert(model, collection, config=QUICK)
    embedded = []
    monkeypatch.setattr(model, "encode_document", lambda texts, **_: embedded.extend(texts))
    train_expert(model, collection, name="second", config=replace(QUICK, epochs=1), force=True)
    assert embedded == []


@pytest.mark.parametrize(
    "options", [{}, {"dropout": 0.2}, {"in_batch": True}, {"corpus_limit": 10, "sampled_negatives": 8}]
)
def test_seed_decides_everything(model, make_collection, options):
    collection = Collection.load(make_collection("aliases"))
    config = replace(QUICK, epochs=2, **options)
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(weights))  # the surroundings must not matter
        train_expert(model, collection, name=name, config=replace(config, seed=seed), force=True)
        weights.append(torch.cat([tensor.flatten() for tensor in model.state.experts[name].parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    "options", [{"in_batch": True}, {"corpus_limit": 10, "hard_negatives": 4, "sampled_negatives": 8}]
)
def test_smaller_sets_of_negatives_also_learn(model, make_collection, options):
    collection = Collection.load(make_collection("aliases", documents=120))
    report = train_expert(model, collection, config=replace(QUICK, **options))
    assert report.info.gain > 0.05


def test_paper_preset_adapts_query_and_value_of_all_layers(checkpoint, make_collection):
    model = RouterRetriever.create_like_paper(str(checkpoint), device="cpu")
    config = replace(PRESETS["paper"], epochs=2, batch_size=16, learning_rate=5e-3)
    train_expert(model, Collection.load(make_collection("aliases")), config=config, force=True)
    changed = set(model.state.experts["aliases"].factors)
    assert changed == {
        f"encoder.layer.{n}.attention.self.{part}" for n in range(4) for part in ("query", "value")
    }
    assert model.similarity_fn_name == "dot"
    assert model.encoder.route_layer == 4


def test_half_precision_learns_nearly_the_same(model, make_collection):
    from routerretriever.encoder.query_batch import EncodedQueries
    from routerretriever.lora.layers import TrainingPlan, initial_adapter

    adapter = initial_adapter(model.encoder.lora_layers, 4, 8.0, torch.Generator().manual_seed(0))
    queries = EncodedQueries.of(model.encoder, [f"word{n} word{2 * n}" for n in range(20)], None)
    gradients = []
    for half in (False, True):
        vectors = model.encoder.finish(TrainingPlan(adapter, half=half), *queries.batch(range(20)))
        gradients.append(torch.autograd.grad(vectors[:, :4].sum(), adapter.parameters()))
    for whole, half in zip(*gradients, strict=True):
        assert (whole - half).norm() <= 0.05 * whole.norm()
    for precision, expected in (("fp32", False), ("bf16", True)):
        assert replace(QUICK, precision=precision).computes_in_bf16(torch.device("cpu")) is expected
    report = train_expert(
        model, Collection.load(make_collection("aliases")), config=replace(QUICK, precision="bf16")
    )
    assert report.info.gain > 0.05


def test_an_expert_without_gain_is_refused_and_reported(model, make_collection):
    collection = Collection.load(make_collection("aliases"))
    hopeless = replace(QUICK, epochs=1, learning_rate=0.0)
    with pytest.raises(
        NoGainError, match=r"not significant: \+0.0 nDCG.*p = 1,.*on 16 held-out queries.*--force"
    ):
        train_expert(model, collection, config=hopeless)
    assert model.experts == {}
    assert not list((model_cache() / "training").glob("*.pt"))


def model_cache():
    from routerretriever.storage.cache_directory import cache_directory

    return cache_directory()


def test_an_expert_that_is_kept_in_spite_of_all_has_its_own_scores(model, make_collection, monkeypatch):
    """The last state is kept where none beat the base; its scores are not the base's."""
    collection = Collection.load(make_collection("aliases"))
    monkeypatch.setattr(Trainer, "_check_held_out", lambda self: None)  # none is found to be better
    info = train_expert(model, collection, config=replace(QUICK, epochs=2), force=True).info
    assert info.base_ndcg == pytest.approx(held_out_score(model, collection, "base"), abs=1e-6)
    assert info.expert_ndcg == pytest.approx(held_out_score(model, collection, "aliases"), abs=1e-6)
    assert info.expert_ndcg != info.base_ndcg


def test_names_that_are_taken_need_force(model, make_collection):
    collection = Collection.load(make_collection("aliases"))
    train_expert(model, collection, config=QUICK)
    with pytest.raises(ExpertError, match="already has an expert 'aliases'"):
        train_expert(model, collection, config=QUICK)
    train_expert(model, collection, config=replace(QUICK, seed=3), force=True)
    assert model.experts["aliases"].config["seed"] == 3


def test_test_only_and_tiny_collections_are_refused(model, make_collection, tmp_path):
    with pytest.raises(CollectionError, match="no split 'train'. It has: test"):
        train_expert(model, Collection.load(make_collection("tests", with_train=False)))
    folder = write_beir(tmp_path / "tiny", {"d": "word1"}, {"q": "word2"}, {"train": {"q": {"d": 1}}})
    with pytest.raises(CollectionError, match="too few to train on"):
        train_expert(model, Collection.load(folder))


def test_unknown_targets_name_the_choices(model, make_collection):
    with pytest.raises(ExpertError, match="No layer of the base is named nothing.*query"):
        train_expert(
            model, Collection.load(make_collection("aliases")), config=replace(QUICK, targets=("nothing",))
        )


def test_all_positives_count():
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    positive = torch.tensor([[True, True, False], [False, False, True]])
    first = [torch.log(torch.exp(s) + 1) - s for s in scores[0, :2]]  # against the one that is not positive
    wanted = ((first[0] + first[1]) / 2 - scores[1].log_softmax(0)[2]) / 2
    assert ranking_loss(scores, positive) == pytest.approx(float(wanted))


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_expert(checkpoint, make_collection, tmp_path):
    """A process is killed between two checkpoints; going on gives the weights of an undisturbed run."""
    folder = make_collection("aliases")
    program = textwrap.dedent(
        """
        import sys, time
        from routerretriever import Collection, RouterRetriever, TrainingConfig, train_expert
        from routerretriever.experts.checkpoint import Checkpoint
        save = Checkpoint.save
        def slow(self, state):
            save(self, state)
            print("saved", flush=True)
            time.sleep(0.05)
        Checkpoint.save = slow
        model = RouterRetriever.create(sys.argv[1], device="cpu")
        config = TrainingConfig(epochs=10, batch_size=16, learning_rate=1e-2, temperature=0.1, rank=4, patience=100, adapter_weights=())
        report = train_expert(model, Collection.load(sys.argv[2]), config=config)
        print("resumed", report.resumed, flush=True)
        model.save_pretrained(sys.argv[3])
        """
    )

    def start(out):
        command = [sys.executable, "-c", program, str(checkpoint), str(folder), str(out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    undisturbed = start(tmp_path / "a")
    assert "resumed False" in undisturbed.communicate()[0]
    killed = start(tmp_path / "b")
    for _ in range(3):
        killed.stdout.readline()
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert "resumed True" in start(tmp_path / "b").communicate()[0]
    one, other = (tmp_path / name / "experts/aliases/adapter_model.safetensors" for name in "ab")
    assert one.read_bytes() == other.read_bytes()


def test_damaged_checkpoint_only_costs_its_work(model, make_collection, monkeypatch):
    collection = Collection.load(make_collection("aliases"))
    monkeypatch.setattr(Checkpoint, "delete", lambda self: None)
    first = train_expert(model, collection, config=QUICK)
    checkpoint = next((model_cache() / "training").glob("*.pt"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    model.remove_expert("aliases")
    monkeypatch.setattr(Checkpoint, "delete", lambda self: self.path.unlink())
    second = train_expert(model, collection, config=QUICK)
    assert not second.resumed
    np.testing.assert_array_equal(first.history, second.history)


def interrupted(model, collection, monkeypatch, **options):
    """Train for one epoch, and leave the checkpoint behind."""
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "delete", lambda self: None)
        train_expert(model, collection, config=replace(QUICK, epochs=1), force=True, **options)


def changed_judgement(collection):
    train = collection.splits["train"]
    query_id = next(iter(train.queries))
    (document_id, *_) = train.qrels[query_id]
    other = next(name for name in collection.document_ids if name != document_id)
    qrels = {**train.qrels, query_id: {other: 1}}
    return replace(collection, splits={**collection.splits, "train": replace(train, qrels=qrels)})


def changed_document(collection):
    first, *rest = collection.documents
    return replace(collection, documents=(replace(first, text=f"{first.text} word7"), *rest))


def changed_held_out(collection):
    dev = collection.splits["dev"]
    query_id = next(iter(dev.queries))
    queries = {**dev.queries, query_id: "word1 word2 word3"}
    return replace(collection, splits={**collection.splits, "dev": replace(dev, queries=queries)})


@pytest.mark.parametrize("change", [changed_judgement, changed_document, changed_held_out])
def test_an_interrupted_training_is_not_continued_with_other_data(
    model, make_collection, monkeypatch, change
):
    collection = Collection.load(make_collection("aliases"))
    interrupted(model, collection, monkeypatch)
    model.remove_expert("aliases")
    config = replace(QUICK, epochs=1)
    assert not train_expert(model, change(collection), config=config, force=True).resumed
    model.remove_expert("aliases")
    assert train_expert(model, collection, config=config, force=True).resumed


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"precision": "fp16"}, "'precision' should be 'auto', 'bf16' or 'fp32', and is 'fp16'"),
        ({"rank": "eight"}, "'rank' should be .*, and is 'eight'"),
        ({"rank": 0}, "'rank' should be .*, and is 0"),
        ({"temperature": 0.0}, "'temperature' should be .*, and is 0.0"),
        ({"strengths": (1.0,)}, "no setting 'strengths'"),
    ],
)
def test_impossible_settings_are_refused_by_name(options, named):
    with pytest.raises(ExpertError, match=named):
        TrainingConfig(**options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_stored_in_half_precision_is_trained_with_whole_factors(
    checkpoint, make_collection, tmp_path, dtype
):
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(checkpoint), device="cpu").to(dtype).save_pretrained(str(tmp_path / "half"))
    half = RouterRetriever.create(str(tmp_path / "half"), device="cpu")
    assert next(half.encoder.parameters()).dtype == dtype
    report = train_expert(half, Collection.load(make_collection("aliases")), config=QUICK)
    assert report.info.gain > 0.05


def test_a_query_without_relevant_document_is_named(model, make_collection):
    collection = Collection.load(make_collection("aliases"))
    train = collection.splits["train"]
    query_id, *_ = train.queries
    broken = replace(train, qrels={**train.qrels, query_id: {}})
    with pytest.raises(CollectionError, match=f"query '{query_id}' of 'aliases' has no relevant document"):
        train_expert(model, replace(collection, splits={**collection.splits, "train": broken}), config=QUICK)


def test_a_dev_split_of_train_queries_is_named(model, make_collection):
    collection = Collection.load(make_collection("aliases"))
    train = collection.splits["train"]
    copies = replace(collection, splits={**collection.splits, "dev": replace(train, name="dev")})
    with pytest.raises(CollectionError, match="dev queries of 'aliases' are train queries"):
        train_expert(model, copies, config=QUICK)
    train_expert(model, collection, config=replace(QUICK, epochs=1), force=True)
    with pytest.raises(CollectionError, match="dev queries of 'aliases' are train queries"):
        model.build_library([copies])


def test_the_document_that_is_the_query_is_no_negative(model, make_collection):
    collection = Collection.load(make_collection("aliases"))
    train = collection.splits["train"]
    query_id, *_ = train.queries
    relevant = set(train.qrels[query_id])
    place = next(at for at, name in enumerate(collection.document_ids) if name not in relevant)
    documents = list(collection.documents)
    documents[place] = replace(documents[place], id=query_id)
    for ignoring in (True, False):
        own = replace(collection, documents=tuple(documents), ignore_identical_ids=ignoring)
        ranked = Negatives(model, own, train, model.embed_collection(own), QUICK).candidates([0, 1])
        assert (ranked.ignored is not None and bool(ranked.ignored[0, place])) is ignoring
    scores = torch.tensor([[2.0, 9.0, 1.0]])
    positive, ignored = torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]])
    assert ranking_loss(scores, positive, ignored) == ranking_loss(scores[:, [0, 2]], positive[:, [0, 2]])
