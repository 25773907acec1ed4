"""Models on disk: atomic saves, locks, the log of versions, downloads."""
