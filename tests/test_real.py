"""Real collections, for those who have them: ``make test-real``."""

import pytest

from routerretriever import Collection, RouterRetriever, TrainingConfig, evaluate, train_expert

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def shared_cache(monkeypatch, tmp_path_factory):
    """Documents are embedded once for the whole run."""
    monkeypatch.setenv("ROUTERRETRIEVER_CACHE", str(tmp_path_factory.getbasetemp() / "real-cache"))


def test_all_collections_load(data):
    names = sorted(path.name for path in data.iterdir() if path.is_dir())
    assert len(names) >= 16
    for name in names:
        collection = Collection.load(data / name)
        assert len(collection.split("test")) >= 30


def test_base_matches_published_quality(data):
    """scifact is the complete BEIR set; all-MiniLM-L6-v2 is published with 64.5 nDCG@10 there."""
    result = evaluate(RouterRetriever.create(device="cpu"), [Collection.load(data / "scifact")])
    assert 100 * result.mean("base") == pytest.approx(64.5, abs=0.2)


def test_two_experts_route_and_pay(data):
    model = RouterRetriever.create(device="cpu")
    collections = [Collection.load(data / name) for name in ("scifact", "mitre_attack")]
    for collection in collections:
        train_expert(model, collection, config=TrainingConfig(epochs=4))
    model.build_library(collections)
    result = evaluate(model, [*collections, Collection.load(data / "fiqa_mini")], limit=300)
    for part in result.collections[:2]:
        assert part.systems["routed"].mean() > part.systems["base"].mean() + 0.05
        assert part.systems["routed"].mean() > 0.97 * part.systems["dataset_oracle"].mean()
    stranger = result.collections[2]
    assert stranger.systems["routed"].mean() > stranger.systems["base"].mean() - 0.01
