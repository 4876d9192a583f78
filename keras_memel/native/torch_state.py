"""The state of a MEmeL in the buffers of a PyTorch module."""

import copy
from typing import Any

import torch
from torch import nn

from keras_memel.core import axes
from keras_memel.core.selection import Selection
from keras_memel.native.torch_replay import Calls
from keras_memel.utils.types import Tensor

# The order is that of `state_dict`.
_OF_NEURONS = ("moving_mean", "moving_variance", "count", "count_low")
_WITHOUT_FORGETTING = ("moving_mean_low", "moving_variance_low")
_SCALARS = ("inhibited_rate", "skipped_updates", "skipped_updates_low")


class StateInBuffers(nn.Module):
    """Keep the statistics of neurons in buffers.

    They are float32 whatever the module is cast to, have the sizes of the
    first inputs or of the file that is loaded, and start anew after the meta
    device.

    Args:
        selection: As of `MEmeL`: it may have a state of its own.
        axis: As of `MEmeL`.
        forget_steps: As of `MEmeL`.
    """

    # Buffers.
    moving_mean: Tensor
    steps: Tensor

    def __init__(self, selection: Selection, axis: Any, forget_steps: Any):
        super().__init__()
        self.selection = selection
        self.axis = axis
        self.forget_steps = forget_steps
        # The mask that the model around got, while it runs.
        self.noted_mask: Tensor | None = None
        self.penalty_value: Tensor | None = None
        # Whether it follows a module by `insert`.
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
        """Make the buffers, after all other attributes.

        Raises:
            ValueError: If the selection names its state like one of those.
        """
        for name, value in self._initial_state(()).items():
            if hasattr(self, name):
                raise ValueError(
                    "`initial_state` of a selection must use names that the "
                    f"layer does not have. Received: {name!r} from "
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
        """Make the statistics for inputs of a shape.

        Args:
            shape: Shape of the inputs; `None` where a size does not matter.
            device: Of the statistics; `None` leaves them where they are.

        Raises:
            ValueError: If the size of a neuron axis is not given, or the
                selection cannot work on such samples.
        """
        rank = len(shape)
        if rank < 2:
            raise ValueError(
                "Argument `inputs` must have a batch axis and at least one "
                f"more. Received: inputs of shape {tuple(shape)}"
            )
        neurons = axes.of_neurons(self.axis, rank)
        sizes = [shape[axis] for axis in neurons]
        if any(size is None for size in sizes):
            raise ValueError(
                f"MEmeL keeps statistics of every neuron, and axis={self.axis} "
                "makes neurons of an axis whose size is not known. Pass "
                f"`axis=-1`, or its size. Received: shape={tuple(shape)}"
            )
        self.selection._check(tuple(shape[1:]))
        device = device or self.steps.device
        for name, buffer in list(self._buffers.items()):
            assert buffer is not None
            # Not another tensor: DistributedDataParallel keeps hold of this.
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
        """Raise if the inputs do not fit the state; build it if there is none.

        Raises:
            ValueError: If they are not floating-point, or make other neurons.
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
                f"MEmeL has statistics of neurons {self._keepdims}, and "
                f"axis={self.axis} makes others of these inputs. Pass "
                "`axis=-1` if the length varies. "
                f"Received: inputs of shape {shape}"
            )

    def _apply(self, fn: Any, recurse: bool = True) -> "StateInBuffers":
        # A cast of the model must not reach the statistics: in bfloat16
        # 256 + 1 = 256. They follow it to a device only.
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
        # Before the first call the sizes are those of the file.
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
        # Graphs, and what holds for one call only, stay here.
        state.update(_calls=Calls(), noted_mask=None, penalty_value=None)
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> "StateInBuffers":
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        # Groups of processes and functions cannot be copied; rules need not.
        shared = {"process_group", "selection", "inhibition", "loss_scale"}
        for key, value in self.__getstate__().items():
            kept = value if key in shared else copy.deepcopy(value, memo)
            made.__dict__[key] = kept
        return made
