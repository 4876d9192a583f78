"""The few operations for which each backend has a faster way of its own.

Everything else in the library is written once, in `keras.ops`. `reference` has
these in `keras.ops` too: it is what a backend without a way of its own gets,
and what the tests hold the others to. Which way is faster was measured with
`benchmarks/overhead.py`; the reasons stand beside the code.
"""

from importlib import import_module

import keras

from keras_memel.kernels import reference

if keras.backend.backend() in ("jax", "tensorflow", "torch"):
    own = import_module(f"{__name__}.{keras.backend.backend()}")
else:
    own = reference

where = getattr(own, "where", reference.where)
isfinite = getattr(own, "isfinite", reference.isfinite)
reshape = getattr(own, "reshape", reference.reshape)
copy = getattr(own, "copy", reference.copy)
at_least = getattr(own, "at_least", reference.at_least)
as_float32 = getattr(own, "as_float32", reference.as_float32)
sums = getattr(own, "sums", reference.sums)
count = getattr(own, "count", reference.count)
kth_largest = getattr(own, "kth_largest", reference.kth_largest)
replace = getattr(own, "replace", reference.replace)
score = getattr(own, "score", reference.score)
choose = getattr(own, "choose", reference.choose)
after = getattr(own, "after", reference.after)
by_sample = getattr(own, "by_sample", reference.by_sample)
fused = getattr(own, "fused", reference.fused)
scan = getattr(own, "scan", reference.scan)
conv = getattr(own, "conv", reference.conv)
