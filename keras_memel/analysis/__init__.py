"""Activations to statistics: analyze and decrease_ratio."""
