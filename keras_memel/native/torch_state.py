"""Store the state of a MEmeL in the buffers of a PyTorch module."""

import copy
from typing import Any

import torch
from torch import nn

from keras_memel.core import axes
from keras_memel.core.selection import Selection
from keras_memel.native.torch_replay import Calls
from keras_memel.utils.types import Tensor

# `state_dict` has the same order.
_OF_NEURONS = ("moving_mean", "moving_variance", "count", "count_low")
_WITHOUT_FORGETTING = ("moving_mean_low", "moving_variance_low")
_SCALARS = ("inhibited_rate", "skipped_updates", "skipped_updates_low")


class StateInBuffers(nn.Module):
    """Keep the statistics of neurons in the buffers of a module.

    The buffers stay float32 when the module is cast. Their sizes come from
    the first inputs or from the file that is loaded. A module that leaves the
    meta device starts with initial statistics.

    Args:
        selection: As in `MEmeL`. The selection may add its own state.
        axis: As in `MEmeL`.
        forget_steps: As in `MEmeL`.
    """

    # These attributes are buffers.
    moving_mean: Tensor
    steps: Tensor

    def __init__(self, selection: Selection, axis: Any, forget_steps: Any):
        super().__init__()
        self.selection = selection
        self.axis = axis
        self.forget_steps = forget_steps
        # Mask of the surrounding model during its call.
        self.noted_mask: Tensor | None = None
        self.penalty_value: Tensor | None = None
        # Whether `insert` has attached the module to a host.
        self.attached = False
        self._calls = Calls()
        self._rank = 0
        self._keepdims: tuple[int, ...] = ()
        self._sample_axes: tuple[int, ...] = ()
        self._of_neurons: tuple[str, ...] = _OF_NEURONS
        if forget_steps is None:
            self._of_neurons += _WITHOUT_FORGETTING
        self._state_keys = tuple(selection.initial_state())

    def _register_state(self) -> None:
        """Create the buffers, after all other attributes.

        Raises:
            ValueError: If a state of the selection has the name of another
                attribute.
        """
        for name, value in self._initial_state(()).items():
            if hasattr(self, name):
                raise ValueError(
                    "`initial_state` of a selection must use names that are "
                    f"not attributes of the layer. Received: {name!r} from "
                    f"{type(self.selection).__name__}"
                )
            self.register_buffer(name, value)

    @property
    def built(self) -> bool:
        """Whether the sizes of the neuron axes are known."""
        return bool(self.moving_mean.numel() > 0)

    def _initial_state(self, shape: tuple[int, ...]) -> dict[str, Tensor]:
        sizes = shape or (0,)
        state = {
            name: torch.zeros(sizes, dtype=torch.float32)
            for name in self._of_neurons
        }
        state["steps"] = torch.zeros((), dtype=torch.int64)
        state |= {
            name: torch.zeros((), dtype=torch.float32) for name in _SCALARS
        }
        for key, value in self.selection.initial_state().items():
            state[key] = torch.tensor(float(value), dtype=torch.float32)
        if self.selection.random:
            seed = getattr(self.selection, "seed", None)
            if seed is None:
                seed = int(torch.randint(2**31 - 1, ()))
            state["seed_state"] = torch.tensor([seed, 0])
        return state

    @torch.compiler.disable
    def build(self, shape: tuple[int | None, ...], device: Any = None) -> None:
        """Create the statistics for inputs of a given shape.

        Args:
            shape: Shape of the inputs, `None` for sizes that do not matter.
            device: Device of the statistics. `None` keeps the current device.

        Raises:
            ValueError: If the size of a neuron axis is unknown, or the
                selection does not suit samples of this shape.
        """
        rank = len(shape)
        if rank < 2:
            raise ValueError(
                "Argument `inputs` must have a batch axis and at least one "
                f"other axis. Received: inputs of shape {tuple(shape)}"
            )
        neurons = axes.of_neurons(self.axis, rank)
        sizes = [shape[axis] for axis in neurons]
        if any(size is None for size in sizes):
            raise ValueError(
                "Argument `axis` must index axes of known size, because the "
                "statistics have one entry per neuron. Pass `axis=-1` for one "
                "neuron per channel, or a `shape` with these sizes. "
                f"Received: axis={self.axis}, shape={tuple(shape)}"
            )
        self.selection._check(tuple(shape[1:]))
        device = device or self.steps.device
        for name, buffer in list(self._buffers.items()):
            assert buffer is not None
            # DistributedDataParallel keeps a reference to this tensor, so it
            # must not be replaced by another.
            buffer.data = (
                torch.zeros(sizes, dtype=torch.float32, device=device)
                if name in self._of_neurons
                else buffer.to(device)
            )
        self._find_axes(rank, sizes)

    def _find_axes(self, rank: int, sizes: Any) -> None:
        neurons = axes.of_neurons(self.axis, rank)
        left = list(sizes)
        self._rank = rank
        self._sample_axes = tuple(a for a in range(rank) if a not in neurons)
        self._keepdims = tuple(
            1 if axis in self._sample_axes else int(left.pop(0))
            for axis in range(rank)
        )

    def _check(self, inputs: Tensor) -> None:
        """Check the inputs against the state, which is built if necessary.

        Raises:
            ValueError: If the inputs are not floating-point or not dense, or
                have other neurons.
        """
        if not inputs.is_floating_point():
            raise ValueError(
                "Argument `inputs` must be of a floating-point dtype. "
                f"Received: inputs of dtype {inputs.dtype}"
            )
        if inputs.layout is not torch.strided or inputs.is_nested:
            raise ValueError(
                "Argument `inputs` must be a dense tensor. "
                f"Received: inputs of layout {inputs.layout}"
            )
        shape = tuple(inputs.shape)
        if not self.built:
            self.build(shape, inputs.device)
        elif not self._rank:  # The sizes came from a file.
            self._find_axes(len(shape), self.moving_mean.shape)
        fits = len(shape) == self._rank and all(
            axis in self._sample_axes or shape[axis] == self._keepdims[axis]
            for axis in range(self._rank)
        )
        if not fits:
            raise ValueError(
                "Argument `inputs` must have the neurons of the statistics, of "
                f"shape {self._keepdims}. Pass `axis=-1` if the length varies. "
                f"Received: inputs of shape {shape} with axis={self.axis}"
            )

    def _apply(self, fn: Any, recurse: bool = True) -> "StateInBuffers":
        # A cast of the model must not change the statistics: in bfloat16
        # 256 + 1 = 256. They follow the model to another device only.
        for name, buffer in self._buffers.items():
            assert buffer is not None
            device = fn(buffer).device
            if buffer.is_meta and device.type != "meta":
                shape = tuple(buffer.shape)
                initial = self._initial_state(
                    shape if name in self._of_neurons else ()
                )[name]
                self._buffers[name] = initial.to(device)
            else:
                self._buffers[name] = buffer.to(device)
        return self

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any
    ) -> None:
        # Before the first call the file determines the sizes.
        loaded = state_dict.get(prefix + "moving_mean")
        if loaded is not None and loaded.numel() and not self.built:
            for name in self._of_neurons:
                old = self._buffers[name]
                assert old is not None
                old.data = torch.zeros(
                    loaded.shape, dtype=old.dtype, device=old.device
                )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        # Graphs and the state of a single call are not copied.
        state.update(_calls=Calls(), noted_mask=None, penalty_value=None)
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> "StateInBuffers":
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        # Process groups and functions cannot be copied, and rules need no
        # copy.
        shared = {"process_group", "selection", "inhibition", "loss_scale"}
        for key, value in self.__getstate__().items():
            kept = value if key in shared else copy.deepcopy(value, memo)
            made.__dict__[key] = kept
        return made
