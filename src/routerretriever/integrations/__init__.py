"""RouterRetriever inside other frameworks: one file each, imported by name, with an extra of the same name.

All of them follow one rule: queries are routed or pinned, documents are always encoded by the base.
"""
