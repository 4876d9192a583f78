"""Comparison of training runs: arms, seeds, stores, verdicts."""
