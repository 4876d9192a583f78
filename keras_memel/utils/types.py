"""Type aliases for objects that the backends do not type.

Each backend has its own tensors and arrays, and Keras accepts all of them. For
mypy they are `Any`. The aliases show which kind a function expects.
"""

from typing import Any
from typing import TypeAlias

# A tensor of the current backend, or an object that `keras.ops` can convert.
Tensor: TypeAlias = Any

# A NumPy array of any dtype and shape.
Array: TypeAlias = Any

# A matplotlib `Axes`, and a pandas object: both are imported when needed.
Axes: TypeAlias = Any
Table: TypeAlias = Any

# Sizes of the axes of a tensor, `None` for sizes that are not known yet.
Shape: TypeAlias = tuple[int | None, ...]
