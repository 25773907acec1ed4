import subprocess
import sys
from pathlib import Path

import pytest

import routerretriever

PAGES = [*Path(__file__).parents[1].glob("docs/**/*.md"), Path(__file__).parents[1] / "README.md"]


def test_public_names():
    assert routerretriever.__all__ == [
        "Collection",
        "Document",
        "Evaluation",
        "History",
        "Hit",
        "Index",
        "Reranker",
        "Route",
        "RouterRetriever",
        "RouterRetrieverError",
        "SearchParameters",
        "SynthesisConfig",
        "TrainingConfig",
        "__version__",
        "add_expert",
        "apply_feedback",
        "check_expert",
        "cluster",
        "compile_model",
        "diagnose",
        "diff_experts",
        "evaluate",
        "integrations",
        "merge_experts",
        "open_model",
        "pull",
        "push_expert",
        "push_model",
        "server",
        "synthesize",
        "train_expert",
    ]


NEEDS_RAY = pytest.param("cluster", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name", [NEEDS_RAY if name == "cluster" else name for name in routerretriever.__all__]
)
def test_every_public_name_is_documented(name):
    assert getattr(routerretriever, name).__doc__
    assert name in dir(routerretriever)
    if name != "__version__":
        assert any(name in page.read_text(encoding="utf-8") for page in PAGES), f"no page tells of {name}"


def test_import_is_lazy():
    code = "import sys, routerretriever; assert 'torch' not in sys.modules; routerretriever.Collection"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name():
    with pytest.raises(AttributeError, match="nothing"):
        _ = routerretriever.nothing
