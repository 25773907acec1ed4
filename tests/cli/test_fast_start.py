"""What a search does not import, so that it answers soon."""

import subprocess
import sys

import pytest
from models import TEXTS, with_experts, with_library

from routerretriever import Index, compile_model
from routerretriever.data.document import Document

UNUSED = (
    "pandas",
    "lance_namespace_urllib3_client.models",
    "huggingface_hub.hf_api",
    "httpx",
    "httpx2",
    "torch",
    "transformers",
    "sentence_transformers",
    "sklearn",
    "scipy",
    "onnx",
    "fastapi",
    "yaml",
    "jinja2",
)


@pytest.fixture(scope="module")
def root(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("started")
    model = with_library(with_experts(checkpoint, n=2))
    model.save_pretrained(folder / "model")
    compile_model(folder / "model")
    index = Index.create(folder / "index", model, model_path=folder / "model")
    index.upsert([Document(str(row), text) for row, text in enumerate(TEXTS)])
    index.build_text_index()
    return folder


def after(root, command, program):
    """Run a command, and then a program in the same process."""
    lines = ["import sys", "from routerretriever.cli.app import app"]
    lines += [f"app({[*map(str, command)]!r}, standalone_mode=False)", program]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False, cwd=root
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_search_imports_nothing_that_it_does_not_need(root):
    program = f"assert not set(sys.modules) & set({UNUSED!r}), set(sys.modules) & set({UNUSED!r})"
    assert "expert:" in after(root, ["search", root / "index", TEXTS[0]], program)


@pytest.mark.slow
def test_what_it_did_without_can_be_used_afterwards(root):
    program = """
import pandas, lance, huggingface_hub
from huggingface_hub.errors import HfHubHTTPError
assert pandas.DataFrame({"a": [1]}).a.tolist() == [1]
assert lance.dataset("index/documents.lance").count_rows() > 0
assert issubclass(HfHubHTTPError, Exception) and huggingface_hub.errors.HfHubHTTPError is HfHubHTTPError
"""
    after(root, ["search", root / "index", TEXTS[0]], program)
