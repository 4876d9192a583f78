"""Store arrays one after the other in one block of bytes."""

from typing import Any

import numpy as np

from keras_memel.utils.types import Array


class Blob:
    """Collection of arrays, each of which JSON can refer to.

    Example:

    >>> blob = Blob()
    >>> blob.add(np.ones((2, 3)), "f4")
    {'a': 0, 't': 'f4', 'n': [2, 3]}
    >>> blob.counts(np.array([7, 300]))
    {'a': 24, 't': 'u2', 'n': [2]}
    >>> len(blob.content())
    32
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, values: Any, dtype: str) -> dict[str, Any]:
        """Add an array.

        Args:
            values: Array to add.
            dtype: "i1", "u1", "u2", "i4", "u4", "f4" or "f8".

        Returns:
            `a`, the offset in bytes; `t`, the dtype; `n`, the shape.
        """
        kind = np.dtype(dtype).newbyteorder("<")
        array = np.ascontiguousarray(values, dtype=kind)
        found = {"a": self._size, "t": dtype, "n": list(array.shape)}
        # A typed array must begin at a multiple of its item size.
        padding = -array.nbytes % 8
        self._parts.append(array.tobytes() + bytes(padding))
        self._size += array.nbytes + padding
        return found

    def counts(self, values: Array) -> dict[str, Any]:
        """Add non-negative integers in the smallest dtype that fits them."""
        most = int(np.max(values, initial=0))
        dtype = "u1" if most < 1 << 8 else "u2" if most < 1 << 16 else "u4"
        return self.add(values, dtype)

    def content(self) -> bytes:
        """Return the bytes of all arrays, one after the other."""
        return b"".join(self._parts)


def companded(shares: Array) -> Array:
    """Encode shares of a highest value in one byte: 126 times the root, signed.

    The error is under 1 % of the highest value. -128 encodes values that are
    not finite, and -127 encodes values that do not count.
    """
    shares = np.asarray(shares, "float32")
    with np.errstate(invalid="ignore"):
        root = np.sqrt(np.abs(np.clip(shares, -1, 1)))
        codes = np.rint(np.copysign(126 * root, shares))
    codes[np.isinf(shares)] = -128
    codes[np.isnan(shares)] = -127
    return codes.astype("int8")
