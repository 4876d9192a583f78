"""TorchMEmeL: the layer as a `torch.nn.Module`."""

import copy
from typing import Any

import torch
from torch import nn

from keras_memel.core import axes
from keras_memel.core.inhibitions import Inhibition
from keras_memel.core.moments import History
from keras_memel.core.moments import Moments
from keras_memel.core.moments import add_compensated
from keras_memel.core.selections import Random
from keras_memel.kernels import torch as kernels
from keras_memel.layers.memel import MEmeL
from keras_memel.native import torch_step
from keras_memel.native.torch_replay import Call
from keras_memel.native.torch_replay import Calls
from keras_memel.native.torch_replay import in_backward

Tensor = Any

# The order is that of `state_dict`.
_OF_NEURONS = ("moving_mean", "moving_variance", "count", "count_low")
_WITHOUT_FORGETTING = ("moving_mean_low", "moving_variance_low")
_SCALARS = ("inhibited_rate", "skipped_updates", "skipped_updates_low")


class TorchMEmeL(nn.Module):
    """Inhibits monosemantic neurons while a PyTorch module trains.

    The same computation as `keras_memel.MEmeL`, with the same arguments and
    the same names of its statistics, for `torch.nn.Sequential` and modules of
    your own. `module.train()` and `module.eval()` decide: in evaluation it is
    the identity. To put it into a model that exists, pass a
    `keras_memel.MEmeL` to `keras_memel.insert`.

    The statistics are buffers, not parameters: they are in `state_dict`, no
    optimizer sees them, and they stay float32 whatever the model is cast to.
    Under activation checkpointing, the second run of a step uses the
    statistics of the first and updates nothing.

    Args:
        selection: As of `MEmeL`.
        inhibition: As of `MEmeL`. The loss of `"penalty"` has no model to
            join: its gradient is added in the backward pass, and
            `penalty_value` holds its last value.
        axis: As of `MEmeL`. `-1` is one neuron per channel; `1` is the same
            for images, `(batch, channels, height, width)`.
        forget_steps: As of `MEmeL`.
        late_start: As of `MEmeL`; each call in training mode is a step, so
            that each micro-batch of accumulated gradients counts.
        epsilon: As of `MEmeL`.
        score_with: As of `MEmeL`.
        at_inference: As of `MEmeL`.
        trainable: If false, the module behaves in training as in evaluation.
        shape: Shape of the inputs, with or without sizes of the axes that are
            no neurons: `(None, None, 768)`. `None`: taken from the first
            inputs. Pass it where the statistics must exist before the first
            call, as for `torch.compile(fullgraph=True)`.
        process_group: Processes that share the statistics, where the default
            group is not the data-parallel one.
        loss_scale: Factor of the gradient of the penalty, or a function that
            returns it: `scaler.get_scale` for a `torch.amp.GradScaler`, `1 /
            n` if you divide the loss by `n` accumulated steps.

    Call arguments:
        inputs: Floating-point tensor `(batch, ...)`.
        mask: Booleans or numbers of the leading dimensions of the inputs: true
            where a position counts. `None`: that of the model around, if
            `insert` has put the module there.

    Output shape: That of the inputs, in the same dtype.

    Buffers (of the names and meanings of the weights of `MEmeL`, float32 but
        for the integer `steps`): those of the neurons are empty before the
        first call. A random selection has `seed_state`: its seed and the
        number of draws.

    Raises:
        ValueError: As of `MEmeL`.
        RuntimeError: If a checkpointed call is run again and its statistics
            are not known any more.

    Example:

    >>> import torch
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(8, 16), TorchMEmeL(axis=-1), torch.nn.Linear(16, 2)
    ... )
    >>> _ = model(torch.ones(4, 8))
    >>> int(model[1].steps), tuple(model[1].moving_mean.shape)
    (1, (16,))
    >>> _ = model.eval()(torch.ones(4, 8))
    >>> int(model[1].steps)
    1

    Reference:
        - [Wang et al. 2024](https://arxiv.org/abs/2312.11560)
    """

    def __init__(
        self,
        selection: Any = "top_k",
        inhibition: Any = "reverse",
        axis: int | tuple[int, ...] | None = None,
        forget_steps: int | None = 10,
        late_start: int = 10,
        epsilon: float = 0.01,
        score_with: str = "history",
        at_inference: bool = False,
        trainable: bool = True,
        *,
        shape: tuple[int | None, ...] | None = None,
        process_group: Any = None,
        loss_scale: Any = 1.0,
    ):
        super().__init__()
        # The Keras layer checks the arguments; it is not kept.
        checked = MEmeL(
            selection,
            inhibition,
            axis,
            forget_steps,
            late_start,
            epsilon,
            score_with,
            at_inference,
            name="memel",
        )
        self.selection = checked.selection
        self.inhibition = checked.inhibition
        self.axis = checked.axis
        self.forget_steps = checked.forget_steps
        self.late_start = checked.late_start
        self.epsilon = checked.epsilon
        self.score_with = checked.score_with
        self.at_inference = checked.at_inference
        self.trainable = bool(trainable)
        self.process_group = process_group
        self.loss_scale = loss_scale
        self.penalty_value: Tensor | None = None
        # The mask that the model around got, while it runs.
        self.noted_mask: Tensor | None = None
        self._calls = Calls()
        self._rank = 0
        self._keepdims: tuple[int, ...] = ()
        self._sample_axes: tuple[int, ...] = ()
        self._of_neurons: tuple[str, ...] = _OF_NEURONS
        if self.forget_steps is None:
            self._of_neurons += _WITHOUT_FORGETTING
        self._state_keys = tuple(self.selection.initial_state())
        for name, value in self._initial_state(()).items():
            if hasattr(self, name):
                raise ValueError(
                    "`initial_state` of a selection must use names that the "
                    f"layer does not have. Received: {name!r} from "
                    f"{type(self.selection).__name__}"
                )
            self.register_buffer(name, value)
        if shape is not None:
            self.build(shape)

    @classmethod
    def from_layer(cls, layer: MEmeL, **kwargs: Any) -> "TorchMEmeL":
        """Make a module with the settings of a Keras layer."""
        return cls(
            layer.selection,
            layer.inhibition,
            layer.axis,
            layer.forget_steps,
            layer.late_start,
            layer.epsilon,
            layer.score_with,
            layer.at_inference,
            layer.trainable,
            **kwargs,
        )

    def to_layer(self) -> MEmeL:
        """Make a Keras layer, not built, with the settings of this module."""
        return MEmeL(
            self.selection,
            self.inhibition,
            self.axis,
            self.forget_steps,
            self.late_start,
            self.epsilon,
            self.score_with,
            self.at_inference,
            trainable=self.trainable,
        )

    # -----------------------------------------------------------------------
    # State

    @property
    def built(self) -> bool:
        """Whether the sizes of the neuron axes are known."""
        return bool(self.moving_mean.numel() > 0)

    def _initial_state(self, shape: tuple[int, ...]) -> dict[str, Tensor]:
        sizes = shape or (0,)
        state = {name: torch.zeros(sizes) for name in self._of_neurons}
        state["steps"] = torch.zeros((), dtype=torch.int64)
        state |= {name: torch.zeros(()) for name in _SCALARS}
        for key, value in self.selection.initial_state().items():
            state[key] = torch.tensor(float(value))
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
        self._find_axes(rank)
        device = device or self.steps.device
        for name, buffer in list(self._buffers.items()):
            assert buffer is not None
            buffer.data = (
                torch.zeros(sizes, device=device)
                if name in self._of_neurons
                else buffer.to(device)
            )
        self._find_keepdims(sizes)

    def _find_axes(self, rank: int) -> None:
        self._rank = rank
        neurons = axes.of_neurons(self.axis, rank)
        self._sample_axes = tuple(a for a in range(rank) if a not in neurons)

    def _find_keepdims(self, sizes: Any) -> None:
        left = list(sizes)
        self._keepdims = tuple(
            1 if axis in self._sample_axes else int(left.pop(0))
            for axis in range(self._rank)
        )

    def _apply(self, fn: Any, recurse: bool = True) -> "TorchMEmeL":
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
                old.data = torch.zeros(loaded.shape, device=old.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        # Graphs, groups and what holds for one call only stay here.
        state.update(_calls=Calls(), noted_mask=None, penalty_value=None)
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> "TorchMEmeL":
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        shared = {"process_group", "selection", "inhibition", "loss_scale"}
        for key, value in self.__getstate__().items():
            kept = value if key in shared else copy.deepcopy(value, memo)
            made.__dict__[key] = kept
        return made

    def extra_repr(self) -> str:
        return (
            f"selection={self.selection!r}, inhibition={self.inhibition!r}, "
            f"axis={self.axis}"
        )

    # -----------------------------------------------------------------------
    # The call

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Inhibit in training mode; pass the inputs on in evaluation."""
        learning = self.training and self.trainable
        if not (learning or self.at_inference):
            return inputs
        self._check(inputs)
        if mask is None:
            mask = _tail(self.noted_mask, inputs)
        compiling = torch.compiler.is_compiling()
        again = learning and not compiling and in_backward()
        if again:
            call = self._calls.find(
                lambda call: self._measure(inputs, call).mean
            )
        else:
            call = self._begin(_as_mask(mask, inputs))

        pooled = None
        if learning and not again:
            batch = self._measure(inputs, call)
            call.local = batch.mean
            if self.score_with == "current":
                batch, _ = torch_step.merge(self.process_group, batch)
            call.batch = batch
        if learning and self.score_with == "current":
            pooled = torch_step.pool(
                call.history, call.batch, self.forget_steps
            )
        statistics = call.history if pooled is None else pooled

        ready = (statistics.count > 0) & (call.steps >= self.late_start)
        values = inputs.detach()
        scale = torch_step.inverse_variance(
            statistics.variance, self.epsilon, ready
        )
        arguments: dict[str, Any] = dict(call.selection)
        selection: Any = self.selection
        if selection.random:
            if compiling and type(selection) is Random:
                # PyTorch's own generator is one that a graph may hold.
                selection = _InGraph(selection)
            else:
                arguments["seed"] = int(call.seed.sum())
        selected = torch_step.select(
            selection, values, statistics.mean, scale, call.valid, arguments
        )
        center = statistics.mean.to(inputs.dtype)
        inhibition: Inhibition = self.inhibition
        outputs: Tensor = inhibition(inputs, selected, center)
        penalty = inhibition.loss(inputs, selected, center)
        if not learning:
            return outputs
        number = kernels.count(selected)
        if not again:
            call.total = self._learn(call, pooled, ready, number)
        if penalty is not None:
            outputs = self._penalize(outputs, penalty, number, call.total)
        if not again and not compiling:
            self._calls.keep(call, outputs)
        return outputs

    def _check(self, inputs: Tensor) -> None:
        if not inputs.is_floating_point():
            raise ValueError(
                "Argument `inputs` must be of a floating-point dtype. "
                f"Received: inputs of dtype {inputs.dtype}"
            )
        shape = tuple(inputs.shape)
        if not self.built:
            self.build(shape, inputs.device)
        elif not self._rank:  # The sizes came from a file.
            self._find_axes(len(shape))
            self._find_keepdims(self.moving_mean.shape)
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

    def _begin(self, valid: Tensor | None) -> Call:
        # Copies: the buffers are written in place.
        parts: dict[str, Any] = {
            name: self._buffers[name].clone().reshape(self._keepdims)
            for name in self._of_neurons
        }
        seed = None
        if self.selection.random:
            seed = self.seed_state.clone()
            self.seed_state[1].add_(1)
        return Call(
            History(
                parts["count"],
                parts["moving_mean"],
                parts["moving_variance"],
                Moments(
                    parts["count_low"],
                    parts.get("moving_mean_low", 0.0),
                    parts.get("moving_variance_low", 0.0),
                ),
            ),
            self.steps.clone(),
            {key: getattr(self, key).clone() for key in self._state_keys},
            valid,
            seed,
        )

    def _measure(self, inputs: Tensor, call: Call) -> Moments:
        return torch_step.batch_moments(
            inputs.detach(), self._sample_axes, call.history, call.valid
        )

    @torch.no_grad()
    def _learn(
        self,
        call: Call,
        pooled: History | None,
        ready: Tensor,
        number: Tensor,
    ) -> Tensor:
        """Write the statistics; the number of values selected everywhere."""
        group, batch = self.process_group, call.batch
        if pooled is None:
            batch, (number,) = torch_step.merge(group, batch, number)
            pooled = torch_step.pool(call.history, batch, self.forget_steps)
        elif torch_step.replicas(group) > 1:
            number = torch_step.total(group, number)[0].float()
        new = {
            "count": pooled.count,
            "count_low": pooled.low.count,
            "moving_mean": pooled.mean,
            "moving_mean_low": pooled.low.mean,
            "moving_variance": pooled.variance,
            "moving_variance_low": pooled.low.variance,
        }
        for name in self._of_neurons:
            buffer = getattr(self, name)
            buffer.copy_(new[name].reshape(buffer.shape))
        total = batch.count.sum()
        could = torch.where(ready, batch.count, 0.0).sum()
        self.inhibited_rate.copy_(
            torch.where(
                total > 0, number / total.clamp(min=1.0), self.inhibited_rate
            )
        )
        if self._state_keys:
            share = number / could.clamp(min=1.0)
            updated = torch_step.updated(self.selection, share, call.selection)
            for key, value in updated.items():
                getattr(self, key).copy_(
                    torch.where(could > 0, value, call.selection[key])
                )
        bad = ~torch.isfinite(batch.mean + batch.variance)
        high, low = add_compensated(
            self.skipped_updates, self.skipped_updates_low, kernels.count(bad)
        )
        self.skipped_updates.copy_(high)
        self.skipped_updates_low.copy_(low)
        self.steps.add_(1)
        return number

    def _penalize(
        self, outputs: Tensor, penalty: Tensor, number: Tensor, total: Tensor
    ) -> Tensor:
        replicas = torch_step.replicas(self.process_group)
        if self.inhibition.loss_is_mean and replicas > 1:
            weight = number * replicas / total.clamp(min=1.0)
            penalty = penalty * weight.detach()
        self.penalty_value = penalty.detach()
        scale = self.loss_scale() if callable(self.loss_scale) else None
        scale = self.loss_scale if scale is None else scale
        added: Tensor = _AddLoss.apply(outputs, penalty, scale)
        return added


class _AddLoss(torch.autograd.Function):
    """Outputs as they are; backward, the gradient of a loss besides."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, loss: Tensor, scale: float) -> Any:
        ctx.scale = scale
        ctx.loss = loss.dtype, loss.device
        return outputs.view_as(outputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        dtype, device = ctx.loss
        return (
            gradient,
            torch.full((), ctx.scale, dtype=dtype, device=device),
            None,
        )


class _InGraph:
    """`Random` with the generator of PyTorch."""

    random = True
    by_sample = False
    skips_negative = False

    def __init__(self, selection: Random):
        self.rate = selection.rate

    def __call__(self, score: Tensor) -> Tensor:
        return torch.rand_like(score) < self.rate


def _tail(mask: Tensor | None, inputs: Tensor) -> Tensor | None:
    """The mask that a model got, if it is one of the positions of a layer."""
    if mask is None or inputs.ndim != 3 or len(mask) != len(inputs):
        return None
    # In generation the mask covers the text so far, the inputs are its end.
    length = inputs.shape[1]
    return mask[:, -length:] if 0 < length <= mask.shape[1] else None


def _as_mask(mask: Tensor | None, inputs: Tensor) -> Tensor | None:
    """A mask at the rank of the inputs."""
    if mask is None:
        return None
    mask = mask.to(device=inputs.device, dtype=torch.bool)
    shape, expected = tuple(mask.shape), tuple(inputs.shape)
    rank = len(shape)
    if rank > len(expected) or shape != expected[:rank]:
        raise ValueError(
            "Argument `mask` must have the leading dimensions of the inputs. "
            f"Received: mask of shape {shape} for inputs of shape {expected}"
        )
    return mask.reshape(shape + (1,) * (len(expected) - rank))
