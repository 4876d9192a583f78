"""Calls that activation checkpointing runs a second time.

Checkpointing throws away what a part of a model computes, and computes it
again in the backward pass. The second run has to use the statistics of the
first and must not update them. So each call in training leaves what it used in
a `Call`. The autograd graph of its outputs owns it: with the graph, it is gone.
"""

import dataclasses
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from keras_memel.core.moments import History
from keras_memel.utils.types import Tensor

# Calls without a graph that are kept: the first run of the reentrant kind of
# checkpointing is without gradients.
MOST_WITHOUT_GRAPH = 8


def in_backward() -> bool:
    """Check whether a backward pass is running in this thread."""
    return bool(torch._C._current_graph_task_id() != -1)


@torch.library.custom_op("keras_memel::first_run", mutates_args=())
def first_run(steps: torch.Tensor) -> torch.Tensor:
    """Copy the number of steps, in a compiled graph that is not run again.

    A graph knows of no `Calls`: the second run of checkpointing would use the
    statistics after the first, and update them.

    Raises:
        RuntimeError: If it is run again, in a backward pass.
    """
    if in_backward():
        raise RuntimeError(
            "Activation checkpointing runs a compiled MEmeL again, which would "
            "use other statistics than in the first run. Use either "
            "`torch.compile` or checkpointing for the part of the model that "
            "holds the MEmeL"
        )
    return steps.clone()


@first_run.register_fake
def _(steps: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(steps)


@dataclasses.dataclass(eq=False)
class Call:
    """What one call used, and what it found.

    Attributes:
        history: Statistics before it, broadcastable to the values.
        steps: Training steps before it, scalar.
        selection: State of the selection before it.
        valid: Its mask at the rank of the values, or `None`.
        seed: State of the seed before it, or `None`.
        batch: Moments of its values, over all processes.
        total: Number of values selected, over all processes.
        local: Mean of its values in this process: the mark it is found by.
        runs: How often it was run again.
    """

    history: History
    steps: Tensor
    selection: dict[str, Tensor]
    valid: Tensor | None
    seed: Any
    batch: Any = None
    total: Any = None
    local: Any = None
    runs: int = 0


class Calls:
    """The calls of one module that may be run again."""

    def __init__(self) -> None:
        self._owned: list[weakref.ref[Call]] = []
        self._kept: deque[Call] = deque(maxlen=MOST_WITHOUT_GRAPH)

    def __len__(self) -> int:
        return len(self.alive())

    def __reduce__(self) -> Any:
        return Calls, ()

    def __deepcopy__(self, memo: Any) -> "Calls":
        return Calls()

    def alive(self) -> list[Call]:
        """The calls that may be run again, the latest first."""
        owned = [call for ref in self._owned if (call := ref()) is not None]
        return (owned + list(self._kept))[::-1]

    def keep(self, call: Call, outputs: Tensor) -> None:
        """Keep a call for as long as the graph of its outputs lives."""
        node = outputs.grad_fn
        if node is None:
            self._kept.append(call)
            return
        node.metadata.setdefault("keras_memel", []).append(call)
        self._owned = [ref for ref in self._owned if ref() is not None]
        self._owned.append(weakref.ref(call))

    def find(self, mean: Callable[[Call], Tensor]) -> Call:
        """The call that is run again now.

        Args:
            mean: From a call to the mean of the values at hand by its
                statistics, which equals that of the call it is.

        Raises:
            RuntimeError: If none of the calls is it.
        """
        # Of several with the same values, the latest that was not run again:
        # a backward pass goes from the latest to the first.
        calls = sorted(self.alive(), key=lambda call: call.runs)
        for call in calls:
            if len(calls) > 1:
                found, expected = mean(call).nan_to_num(), call.local
                if not torch.equal(found, expected.nan_to_num()):
                    continue
            call.runs += 1
            return call
        raise RuntimeError(
            "Activation checkpointing runs a MEmeL again, and its statistics "
            "of the first run are not known any more. Use "
            "`checkpoint(..., use_reentrant=False)`, which keeps them for as "
            f"long as they are needed. Received: {len(calls)} calls, none of "
            "them with these inputs"
        )
