"""One thing varied at a time; each study yields points for a table and a plot.

``registry`` lists them. Those of ``training`` and ``topics`` train a few experts; the others reuse
cached query vectors.
"""
