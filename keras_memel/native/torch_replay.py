"""Repeat calls that activation checkpointing runs a second time.

Checkpointing discards the intermediate results of a part of a model and
computes them again in the backward pass. The second run has to use the
statistics of the first and must not update them. Each call in training
therefore records them in a `Call`. The autograd graph of the outputs owns the
`Call`, which is freed together with the graph.
"""

import dataclasses
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from keras_memel.core.moments import History
from keras_memel.utils.types import Tensor

# Number of calls without a graph that are kept: reentrant checkpointing
# disables gradients in the first run.
MOST_WITHOUT_GRAPH = 8


def in_backward() -> bool:
    """Check whether a backward pass is running in this thread."""
    return bool(torch._C._current_graph_task_id() != -1)


@torch.library.custom_op("keras_memel::first_run", mutates_args=())
def first_run(steps: torch.Tensor) -> torch.Tensor:
    """Copy the number of steps, in a compiled graph that runs only once.

    A graph cannot access `Calls`. A second run by checkpointing would use
    the statistics after the first run, and would update them again.

    Raises:
        RuntimeError: If the graph runs again, in a backward pass.
    """
    if in_backward():
        raise RuntimeError(
            "Activation checkpointing runs a compiled MEmeL again, which would "
            "use other statistics than in the first run. Use either "
            "`torch.compile` or checkpointing for the part of the model that "
            "contains the MEmeL"
        )
    return steps.clone()


@first_run.register_fake
def _(steps: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(steps)


@dataclasses.dataclass(eq=False)
class Call:
    """State and results of one call.

    Attributes:
        history: Statistics before the call, broadcastable to the values.
        steps: Number of training steps before the call, scalar.
        selection: State of the selection before the call.
        valid: Mask at the rank of the values, or `None`.
        seed: State of the seed before the call, or `None`.
        batch: Moments of the values, over all processes.
        total: Number of values selected, over all processes.
        local: Mean of the values in this process, which identifies the call.
        runs: Number of times that the call was run again.
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
    """Calls of one module that may be run again."""

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
        """Return the calls that may be run again, starting with the latest."""
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
        """Find the call that is now run again.

        Args:
            mean: Function of a call that computes the mean of the present
                values with its statistics. For the matching call the result
                equals `local`.

        Raises:
            RuntimeError: If no call matches.
        """
        # Several calls may have the same values. A backward pass runs from
        # the latest to the first, so the latest that was not run again counts.
        calls = sorted(self.alive(), key=lambda call: call.runs)
        for call in calls:
            if len(calls) > 1:
                found, expected = mean(call).nan_to_num(), call.local
                if not torch.equal(found, expected.nan_to_num()):
                    continue
            call.runs += 1
            return call
        raise RuntimeError(
            "Activation checkpointing runs a MEmeL again, but its statistics "
            "of the first run are no longer available. Use "
            "`checkpoint(..., use_reentrant=False)`, which keeps them while "
            f"they are needed. Received: {len(calls)} calls, none of them "
            "with these inputs"
        )
