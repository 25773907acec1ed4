"""Which tests need packages that only ``make test-all`` installs."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
# These import frameworks, Ray or a browser's driver.
LARGE = [
    "cluster",
    "integrations",
    "server/test_page.py",
    "server/test_page_files.py",
    "server/test_replicas.py",
]


def is_large(path):
    """Whether a file of tests, or a folder that it is in, is listed in ``LARGE``."""
    return any(path.is_relative_to(TESTS / name) for name in LARGE)
