"""The few operations for which each backend has a faster way of its own.

Everything else in the library is written once, in `keras.ops`. `reference` has
these in `keras.ops` too: it is what a backend without a way of its own gets,
and what the tests hold the others to. The file of a backend imports from
`reference` what it does not do in its own way. Which way is faster was
measured with `benchmarks/overhead.py`; the reasons stand beside the code.
"""

from types import ModuleType

import keras

from keras_memel.kernels import reference

own: ModuleType = reference
if keras.backend.backend() == "jax":
    from keras_memel.kernels import jax
    from keras_memel.kernels.jax import *  # noqa: F403

    own = jax
elif keras.backend.backend() == "tensorflow":
    from keras_memel.kernels import tensorflow
    from keras_memel.kernels.tensorflow import *  # noqa: F403

    own = tensorflow
elif keras.backend.backend() == "torch":
    from keras_memel.kernels import torch
    from keras_memel.kernels.torch import *  # noqa: F403

    own = torch
else:
    from keras_memel.kernels.reference import *  # noqa: F403
