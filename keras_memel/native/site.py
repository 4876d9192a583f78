"""Describe a place for a MEmeL in a model that is not a Keras model."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Site:
    """Module within a model.

    Attributes:
        path: Dotted path of the module.
        chain: All modules from the model down to the module itself.
        optional: Whether to leave the module out if it is never called.
    """

    path: str
    chain: tuple[Any, ...]
    optional: bool = False

    @property
    def layer(self) -> Any:
        return self.chain[-1]
