"""Numpy's products take one thread while an encoder waits, and as many as before afterwards."""

import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from routerretriever.kernels import threads
from routerretriever.kernels.threads import one_blas_thread


def blas_threads():
    np.ones((2, 2)) @ np.ones((2, 2))
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_products_use_one_thread_meanwhile():
    before = blas_threads()
    with one_blas_thread():
        assert set(blas_threads()) == {1}
    assert blas_threads() == before


@pytest.mark.parametrize("n", [0, 1, 7, 64])
def test_a_product_by_all_cores_is_the_product(monkeypatch, n):
    """Also of fewer rows than there are cores, and whether it is divided or not."""
    monkeypatch.setattr(threads, "available_threads", lambda: 3)
    monkeypatch.setattr(threads, "_WORTH", 1000)
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(size=(n, 24)).astype(np.float32), rng.normal(size=(24, 500)).astype(np.float32)
    before = blas_threads()
    np.testing.assert_allclose(threads.by_all_cores(rows, columns), rows @ columns, rtol=1e-5, atol=1e-5)
    assert blas_threads() == before


FORKING = """
import os
import numpy as np
from routerretriever.kernels import threads

threads.available_threads, threads._WORTH = lambda: 2, 1000
rows = np.ones((64, 8), np.float32)
assert threads.by_all_cores(rows, rows.T).sum() == 64 * 64 * 8
child = os.fork()
if not child:
    os._exit(0 if threads.by_all_cores(rows, rows.T).sum() == 64 * 64 * 8 else 1)
assert os.waitpid(child, 0) == (child, 0)
"""


def test_a_forked_process_divides_products_too():
    """The threads that its parent had are not there, and waiting for them would never end."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]
    subprocess.run(command, check=True, timeout=60)
