"""Run the command line as in an install without the ``train`` extra: its packages cannot be found."""

import sys

from routerretriever.extras import TRAINING_PACKAGES


class Hiding:
    """Finds what another finder does, except for some packages."""

    def __init__(self, finder, hidden):
        self.finder, self.hidden = finder, hidden

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.hidden:
            return None
        return self.finder.find_spec(name, path, target)


def hide(hidden=TRAINING_PACKAGES):
    sys.meta_path[:] = [Hiding(finder, set(hidden)) for finder in sys.meta_path]


if __name__ == "__main__":
    hide()
    from routerretriever.cli.app import app

    app()
