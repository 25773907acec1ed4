"""What the OpenAPI document says, tried out: no failure, no answer that it does not name."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import ADMIN_KEY, API_KEY, running, wait_until_ready

from routerretriever.server import Settings

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


@pytest.fixture(scope="module")
def served(built, tmp_path_factory):
    root = tmp_path_factory.mktemp("schema")
    for name in ("model", "index"):
        shutil.copytree(built / name, root / name)
    settings = Settings(
        model=root / "model", index=str(root / "index"), api_keys=(API_KEY,), admin_keys=(ADMIN_KEY,)
    )
    with running(settings) as client:
        yield wait_until_ready(client)


@pytest.mark.slow
def test_the_api_keeps_to_its_description(served, tmp_path):
    """By schemathesis' own command; its pytest plugin does not know the present pytest."""
    command = [
        *(Path(sys.executable).with_name("schemathesis"), "run", f"{served.base_url}/openapi.json"),
        *("--header", f"Authorization: Bearer {ADMIN_KEY}", "--checks", ",".join(CHECKS)),
        *(
            "--max-examples",
            "30",
            "--seed",
            "1",
            "--generation-deterministic",
            "--continue-on-failure",
            "--no-color",
        ),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


def test_every_field_has_an_example(served):
    document = served.get("/openapi.json").json()
    plain = {
        "object",
        "error",
        "data",
        "points",
        "results",
        "hits",
        "routes",
        "pilots",
        "documents",
        "experts",
        "usage",
        "files",
        "collections",
        "newest",
    }
    for name, model in document["components"]["schemas"].items():
        if name.startswith(("HTTPValidation", "Validation", "Body_")):
            continue
        for field, description in model["properties"].items():
            assert "examples" in description or field in plain, (name, field)
