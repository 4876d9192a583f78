"""Precision and devices of long runs: see longrun.py."""

import contextlib
import os

import keras

BACKEND = keras.config.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "torch":
    import torch
    import torch.distributed as group


@contextlib.contextmanager
def devices(options):
    """Set precision and devices of the models built and fitted inside."""
    everywhere = options.devices == "all"
    with contextlib.ExitStack() as stack:
        before = keras.config.dtype_policy()
        stack.callback(keras.config.set_dtype_policy, before)
        keras.config.set_dtype_policy(options.precision)
        if BACKEND == "jax" and everywhere:
            distribution = keras.distribution
            stack.callback(distribution.set_distribution, None)
            distribution.set_distribution(Spread())
        elif BACKEND == "tensorflow" and everywhere:
            kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
            names = [d.name for d in tf.config.list_logical_devices(kind)]
            strategy = tf.distribute.MirroredStrategy(names)
            stack.enter_context(strategy.scope())
        elif BACKEND == "torch" and "LOCAL_RANK" in os.environ:
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            if not group.is_initialized():
                cuda = torch.cuda.is_available()
                group.init_process_group("nccl" if cuda else "gloo")
                stack.callback(group.destroy_process_group)
        yield


class Spread(keras.distribution.DataParallel):
    """Divide batches among devices, or copy those that do not divide."""

    def get_data_layout(self, data_shape):
        layout = super().get_data_layout(data_shape)
        if data_shape[0] % self.device_mesh.devices.size == 0:
            return layout
        axes = [None] * len(data_shape)
        return keras.distribution.TensorLayout(axes, self.device_mesh)


def number_of_devices():
    if BACKEND == "jax":
        found = keras.distribution.distribution()
        return found.device_mesh.devices.size if found else 1
    if BACKEND == "tensorflow":
        return tf.distribute.get_strategy().num_replicas_in_sync
    return rank_and_ranks()[1]


def rank_and_ranks():
    """Return rank and number of the processes of torchrun, or 0 and 1."""
    if BACKEND != "torch":
        return 0, 1
    if group.is_available() and group.is_initialized():
        return group.get_rank(), group.get_world_size()
    return 0, 1


def average_gradients(optimizer):
    """Average gradients over the processes of torchrun before each step."""
    if rank_and_ranks()[1] == 1:
        return
    apply = optimizer.apply

    def averaged(gradients, variables=None):
        sums = torch.cat([g.reshape(-1).float() for g in gradients])
        group.all_reduce(sums)
        parts = sums.div_(group.get_world_size()).split(
            [g.numel() for g in gradients]
        )
        gradients = [
            part.reshape(g.shape).to(g.dtype)
            for part, g in zip(parts, gradients)
        ]
        return apply(gradients, variables)

    optimizer.apply = averaged
