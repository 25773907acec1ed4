"""The experiment suite: what is compared, on what, and the report about it.

``suite`` reads the YAML file, ``models`` trains, ``query_cache`` encodes queries once, ``systems``,
``routers`` and ``oracles`` are what is compared, ``runner`` runs a suite and resumes it, ``studies``
vary one thing at a time, ``results`` and ``measures`` make the figures, ``report`` shows them.
"""
