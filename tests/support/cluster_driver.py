"""A build on a cluster, in a process of its own: python cluster_driver.py ADDRESS MODEL INDEX SOURCE [OPTION=VALUE…]."""

import json
import logging
import os
import sys

from routerretriever import Index, RouterRetriever
from routerretriever.index.build import chunks as chunks_module
from routerretriever.index.build.settings import BuildSettings


def main(address, model, index, source, *options):
    given = dict(option.split("=") for option in options)
    chunks_module.CHUNK_ROWS = int(given.get("rows", 25))
    if "alone" in given:
        from routerretriever.cluster import encode as cluster

        cluster._ALONE_SECONDS = int(given["alone"])
    logging.disable(logging.WARNING)
    loaded = RouterRetriever.from_pretrained(model, device="cpu")
    settings = BuildSettings(on_error=given.get("on_error", "stop"), resume="resume" in given)
    runner = None
    if address != "none":
        from routerretriever.cluster import encode_on

        runner = encode_on(address, loaded, workers=int(given.get("workers", 2)))
    report = Index.create(index, loaded).add(source, settings=settings, runner=runner)
    print(json.dumps(report.to_dict()), flush=True)
    os._exit(0)  # Ray's shutdown may wait for a node that is cut off


if __name__ == "__main__":
    main(*sys.argv[1:])
