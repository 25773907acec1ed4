"""Pilots with measured gains, and the decision which candidate encodes a query."""
