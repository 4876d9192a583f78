"""TorchMEmeL: the layer as a `torch.nn.Module`."""

import math
from typing import Any

import torch

from keras_memel.core.inhibitions import Inhibition
from keras_memel.core.inhibitions import InhibitionLike
from keras_memel.core.moments import History
from keras_memel.core.moments import Moments
from keras_memel.core.moments import add_compensated
from keras_memel.core.selection import SelectionLike
from keras_memel.core.selections import Random
from keras_memel.core.selections import RandomK
from keras_memel.kernels import torch as kernels
from keras_memel.layers.memel import MEmeL
from keras_memel.native import torch_masks
from keras_memel.native import torch_step
from keras_memel.native.torch_replay import Call
from keras_memel.native.torch_replay import first_run
from keras_memel.native.torch_replay import in_backward
from keras_memel.native.torch_state import StateInBuffers
from keras_memel.utils.types import Tensor

# Arguments of `MEmeL` that the module shares.
_SETTINGS = (
    "selection",
    "inhibition",
    "axis",
    "forget_steps",
    "late_start",
    "epsilon",
    "score_with",
    "at_inference",
    "trainable",
    "process_group",
)


class TorchMEmeL(StateInBuffers):
    """Inhibit monosemantic neurons while a PyTorch module trains.

    The module performs the computation of `keras_memel.MEmeL`, with the same
    arguments and the same names of the statistics. Use it in
    `torch.nn.Sequential` and in your own modules. `module.train()` and
    `module.eval()` select the mode. In evaluation the module is the identity.
    For an existing model, pass a `keras_memel.MEmeL` to `keras_memel.insert`,
    which adds such modules.

    The statistics are buffers, not parameters. They are part of `state_dict`,
    no optimizer updates them, and they stay float32 when the model is cast.
    Under activation checkpointing, the second run of a step uses the
    statistics of the first and does not update them. A neuron without history
    is never selected, so the first training step inhibits no value.

    Args:
        selection: As in `MEmeL`.
        inhibition: As in `MEmeL`. The loss of `"penalty"` is not added to the
            loss of a model. Its gradient is added in the backward pass, and
            `penalty_value` holds its last value.
        axis: As in `MEmeL`. `-1` uses one neuron per channel, and `1` does so
            for images `(batch, channels, height, width)`.
        forget_steps: As in `MEmeL`.
        late_start: As in `MEmeL`. Each call in training mode is a step, so
            each micro-batch counts if you accumulate gradients.
        epsilon: As in `MEmeL`.
        score_with: As in `MEmeL`.
        at_inference: As in `MEmeL`.
        trainable: If `False`, the module behaves in training as in evaluation.
        shape: Shape of the inputs, such as `(None, None, 768)`. The sizes of
            axes that do not index neurons are optional. `None` uses the shape
            of the first inputs. Pass it if the statistics must exist before
            the first call, as for `torch.compile(fullgraph=True)`.
        process_group: Group of the processes that share the statistics, if it
            is not the default group.
        loss_scale: Factor of the gradient of the penalty, or a function that
            returns it. Use `scaler.get_scale` for a `torch.amp.GradScaler`,
            and `1 / n` if you divide the loss by `n` accumulated steps.

    Call arguments:
        inputs: Floating-point tensor `(batch, ...)`.
        mask: Booleans or numbers over the leading dimensions of the inputs:
            true where a position counts. `None` uses the mask of the
            surrounding model if `insert` added the module.

    Output shape: Shape of the inputs, in the same dtype.

    Buffers (names and meanings of the weights of `MEmeL`, float32 except for
        the integer `steps`): The statistics of the neurons are empty before
        the first call. A random selection adds `seed_state`: its seed and the
        number of draws.

    Raises:
        ValueError: If an argument is invalid; in a call, if the inputs are not
            dense and floating-point, have other neurons than before, or do
            not match the mask.
        RuntimeError: In training, under `torch.func`, `torch.vmap` or
            `torch.nn.DataParallel`; or if a checkpointed call is run again
            after its statistics were freed.

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
        selection: SelectionLike = "top_k",
        inhibition: InhibitionLike = "reverse",
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
        # A temporary Keras layer checks the arguments.
        checked = MEmeL(
            selection,
            inhibition,
            axis,
            forget_steps,
            late_start,
            epsilon,
            score_with,
            at_inference,
            process_group,
            name="memel",
        )
        super().__init__(checked.selection, checked.axis, checked.forget_steps)
        self.inhibition = checked.inhibition
        self.late_start = checked.late_start
        self.epsilon = checked.epsilon
        self.score_with = checked.score_with
        self.at_inference = checked.at_inference
        self.trainable = bool(trainable)
        self.process_group = checked.process_group
        self.loss_scale = loss_scale
        self._register_state()
        if shape is not None:
            self.build(shape)

    @classmethod
    def from_layer(cls, layer: Any, **changed: Any) -> "TorchMEmeL":
        """Create a module with the settings of another layer.

        Args:
            layer: A `MEmeL` or a `TorchMEmeL`. Its statistics are not copied.
            **changed: Arguments that differ.

        Returns:
            A module without statistics, unless `shape` is among `changed`.

        Raises:
            ValueError: As in `MEmeL`.

        Example:

        >>> module = TorchMEmeL.from_layer(MEmeL("rate", axis=-1), axis=1)
        >>> module.selection, module.axis
        (Rate(rate=0.02, gain=0.1), 1)
        """
        settings = {name: getattr(layer, name) for name in _SETTINGS}
        return cls(**{**settings, **changed})

    def to_layer(self) -> MEmeL:
        """Create an unbuilt Keras layer with the settings of this module.

        The statistics are not copied.

        >>> TorchMEmeL("rate", axis=1).to_layer().axis
        1
        """
        return MEmeL(**{name: getattr(self, name) for name in _SETTINGS})

    def extra_repr(self) -> str:
        return (
            f"selection={self.selection!r}, inhibition={self.inhibition!r}, "
            f"axis={self.axis}"
        )

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Inhibit in training; return the inputs unchanged in evaluation."""
        learning = self.training and self.trainable
        if not (learning or self.at_inference):
            return inputs
        if learning and torch._C._are_functorch_transforms_active():
            raise RuntimeError(
                "MEmeL updates statistics, which `torch.func` and `torch.vmap` "
                "do not support. Call `model.eval()` or "
                "`keras_memel.strip(model)` first."
            )
        self._check(inputs)
        if mask is None:
            mask = torch_masks.fit(self.noted_mask, inputs, self.axis)
        compiling = torch.compiler.is_compiling()
        # A second run must use the statistics and the draws of the first.
        repeatable = learning or self.selection.random
        again = repeatable and not compiling and in_backward()
        if again:
            call = self._calls.find(
                lambda call: self._measure(inputs, call).mean
            )
        else:
            call = self._begin(torch_masks.at_rank(mask, inputs))
            if repeatable and compiling and not torch.compiler.is_exporting():
                call.steps = first_run(call.steps)

        pooled = None
        if learning and not again:
            batch = self._measure(inputs, call)
            call.local = batch.mean
            if self.score_with == "current":
                batch, _ = torch_step.merge(self.process_group, batch)
            call.batch = batch
        elif repeatable and not again:
            call.local = self._measure(inputs, call).mean
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
            if compiling and type(selection) in (Random, RandomK):
                # A compiled graph uses PyTorch's own generator.
                selection = torch_step.InGraph(selection)
            else:
                arguments["seed"] = int(call.seed.sum())
        selected = torch_step.select(
            selection, values, statistics.mean, scale, call.valid, arguments
        )
        center = statistics.mean.to(inputs.dtype)
        inhibition: Inhibition = self.inhibition
        outputs: Tensor = inhibition(inputs, selected, center)
        if learning:
            penalty = inhibition.loss(inputs, selected, center)
            number = kernels.count(selected)
            if not again:
                call.total = self._learn(call, pooled, ready, number)
            if penalty is not None:
                outputs = self._penalize(outputs, penalty, number, call.total)
        if repeatable and not again and not compiling:
            self._calls.keep(call, outputs)
        return outputs

    def _replicate_for_data_parallel(self) -> Any:
        # `nn.DataParallel` runs copies of the module and discards them.
        if self.training and self.trainable:
            raise RuntimeError(
                "MEmeL cannot train in `nn.DataParallel`, which loses the "
                "statistics of its replicas after each step. Use "
                "`nn.parallel.DistributedDataParallel`, which PyTorch "
                "recommends instead."
            )
        return super()._replicate_for_data_parallel()

    def _begin(self, valid: Tensor | None) -> Call:
        # The call needs copies, because the buffers are updated in place.
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
        """Update the statistics.

        Returns:
            Number of values selected, over all processes.
        """
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
        bad = ~((batch.mean + batch.variance).abs() < math.inf)
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
    """Pass values on, and add the gradient of a loss in the backward pass."""

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
