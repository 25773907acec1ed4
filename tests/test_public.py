import subprocess
import sys

import pytest

import routerretriever


def test_public_names():
    assert routerretriever.__all__ == [
        "Collection",
        "History",
        "Index",
        "Route",
        "RouterRetriever",
        "RouterRetrieverError",
        "TrainingConfig",
        "__version__",
        "add_expert_from",
        "check_expert",
        "diff_experts",
        "evaluate",
        "examine",
        "merge_experts",
        "pull",
        "push_expert",
        "push_model",
        "train_expert",
    ]
    for name in routerretriever.__all__:
        assert getattr(routerretriever, name).__doc__
        assert name in dir(routerretriever)


def test_import_is_lazy():
    code = "import sys, routerretriever; assert 'torch' not in sys.modules; routerretriever.Collection"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name():
    with pytest.raises(AttributeError, match="nothing"):
        _ = routerretriever.nothing
