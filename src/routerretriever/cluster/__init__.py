"""Encoding, index builds and search on a Ray cluster."""
