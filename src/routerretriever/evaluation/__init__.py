"""Rankings, measures, significance, gains of experts, and reports."""
