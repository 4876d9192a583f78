"""Kernels: the few operations that a backend can compute faster than Keras.

All other code of the library is written once, in `keras.ops`. `reference`
implements the kernels in `keras.ops` too. Backends without a faster kernel use
it, and the tests compare the others with it. The file of a backend imports the
kernels that it does not replace from `reference`. `benchmarks/overhead.py`
measures which kernel is faster. Comments in the code give the reasons.
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
