"""Compute statistics of activations: analyze and decrease_ratio."""
