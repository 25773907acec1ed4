"""Passages: the parts of a long document, each short enough for the base to read whole."""
