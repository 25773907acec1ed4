"""Numpy's products take one thread while an encoder waits, and as many as before afterwards."""

import numpy as np
from threadpoolctl import threadpool_info

from routerretriever.kernels.threads import one_blas_thread


def blas_threads():
    np.ones((2, 2)) @ np.ones((2, 2))
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_products_use_one_thread_meanwhile():
    before = blas_threads()
    with one_blas_thread():
        assert set(blas_threads()) == {1}
    assert blas_threads() == before
