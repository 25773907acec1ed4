"""The document index, which all experts share."""
