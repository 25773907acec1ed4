"""A build on a cluster, in a process of its own: python cluster_driver.py ADDRESS MODEL INDEX SOURCE [OPTION=VALUE…]."""

import json
import logging
import os
import sys

from routerretriever import Index, RouterRetriever
from routerretriever.index.build import shards as sources
from routerretriever.index.build.settings import Settings


def main(address, model, index, source, *options):
    given = dict(option.split("=") for option in options)
    sources.PIECE_ROWS = int(given.get("rows", 25))
    if "alone" in given:
        from routerretriever.cluster import encode as cluster

        cluster._ALONE_SECONDS = int(given["alone"])
    logging.disable(logging.WARNING)
    loaded = RouterRetriever.from_pretrained(model, device="cpu")
    settings = Settings(given.get("on_error", "stop"), resume="resume" in given)
    where = {} if address == "none" else {"cluster": address, "workers": int(given.get("workers", 2))}
    report = Index.create(index, loaded).build(source, settings=settings, **where)
    print(json.dumps(report.to_dict()), flush=True)
    os._exit(0)  # Ray's shutdown may wait for a node that is cut off


if __name__ == "__main__":
    main(*sys.argv[1:])
