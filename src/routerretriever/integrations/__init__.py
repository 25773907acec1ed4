"""RouterRetriever inside other frameworks: one file each, imported by name, with an extra of the same name.

Every one of them keeps the same rule: queries are routed or pinned, documents are always the base's.
"""
