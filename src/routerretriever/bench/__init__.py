"""The experiment suite: what is compared, on what, and the report about it.

``suite`` reads the YAML file, ``data`` prepares cached query vectors, ``routers`` and ``systems`` say what is
compared, ``measures`` computes the figures, ``studies`` varies one thing at a time, ``runner`` runs it
all and resumes, ``report`` shows it.
"""
