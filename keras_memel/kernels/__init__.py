"""The few operations for which each backend has a faster way of its own.

Everything else in the library is written once, in `keras.ops`. `plain` has
these in `keras.ops` too: it is what a backend without a way of its own gets,
and what the tests hold the others to. Which way is faster was measured with
`benchmarks/overhead.py`; the reasons stand beside the code.
"""

from importlib import import_module

import keras

from keras_memel.kernels import plain

if keras.backend.backend() in ("jax", "tensorflow", "torch"):
    own = import_module(f"{__name__}.{keras.backend.backend()}")
else:
    own = plain

where = getattr(own, "where", plain.where)
isfinite = getattr(own, "isfinite", plain.isfinite)
reshape = getattr(own, "reshape", plain.reshape)
copy = getattr(own, "copy", plain.copy)
at_least = getattr(own, "at_least", plain.at_least)
as_float32 = getattr(own, "as_float32", plain.as_float32)
sums = getattr(own, "sums", plain.sums)
count = getattr(own, "count", plain.count)
kth_largest = getattr(own, "kth_largest", plain.kth_largest)
replace = getattr(own, "replace", plain.replace)
score = getattr(own, "score", plain.score)
choose = getattr(own, "choose", plain.choose)
by_sample = getattr(own, "by_sample", plain.by_sample)
fused = getattr(own, "fused", plain.fused)
scan = getattr(own, "scan", plain.scan)
conv = getattr(own, "conv", plain.conv)
