"""Names for what the backends do not type.

Each backend has tensors and arrays of its own, and Keras takes any of them:
to mypy they are `Any`. The names say which kind a function expects.
"""

from typing import Any
from typing import TypeAlias

# A tensor of the backend in use, or what `keras.ops` converts to one.
Tensor: TypeAlias = Any

# A NumPy array of any dtype and shape.
Array: TypeAlias = Any

# A matplotlib `Axes`, and a pandas object: both are imported when needed.
Axes: TypeAlias = Any
Table: TypeAlias = Any

# Sizes of the axes of a tensor; `None` where a size is not known yet.
Shape: TypeAlias = tuple[int | None, ...]
