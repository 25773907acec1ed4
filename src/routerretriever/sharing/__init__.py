"""Models and experts for others: cards, export, the hub."""
