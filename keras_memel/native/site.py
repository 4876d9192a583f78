"""A place for a MEmeL in a model that is not a Keras model."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Site:
    """A module somewhere in a model.

    Attributes:
        path: Its dotted path.
        chain: From the model down to the module itself.
    """

    path: str
    chain: tuple[Any, ...]

    @property
    def layer(self) -> Any:
        return self.chain[-1]
