"""A package whose import waits until it is needed."""

import subprocess
import sys


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_index_loads_without_the_rest_client_which_works_all_the_same():
    run("""
import sys
import routerretriever.index.index
assert not [name for name in sys.modules if name.startswith("lance_namespace_urllib3_client.api.")]
import lance_namespace_urllib3_client as client
assert client.ApiClient.__name__ == "ApiClient"
assert client.models.CreateTableRequest(id=["a"]).id == ["a"]
assert "lance_namespace_urllib3_client.api.table_api" in sys.modules
""")


def test_what_is_loaded_or_missing_stays_as_it_is():
    run("""
import json, sys
from routerretriever.kernels.lazy_imports import import_lazily
import_lazily("json")
assert sys.modules["json"] is json
import_lazily("no_such_package")
assert "no_such_package" not in sys.modules
import_lazily("email")
import email.message
assert "email.parser" not in sys.modules
assert not hasattr(email, "nothing_of_the_kind")
assert email.message_from_string("a: b")["a"] == "b"
""")
