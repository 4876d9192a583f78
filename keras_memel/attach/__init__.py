"""How something stands on the output of a layer, in a model that is there.

    sites     where: the tree of a model, and patterns on it
    shapes    what shape the values have there, without any data
    hooks     attributes that stand before the methods of a layer
    forward   what a MEmeL is told on the way through its host, and does
    hosts     the layers that hold one: attached, detached, saved
    taps      the same place for what only looks: `analyze`, the monitor

`insertion.py` is what users call.
"""
