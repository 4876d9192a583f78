"""Keras layers: MEmeL, and ConvGRU2D with a MEmeL in its cell."""
