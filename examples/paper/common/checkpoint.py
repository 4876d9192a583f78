"""Checkpoints from which a killed run resumes, and its logs: see longrun.py."""

import csv
import json
import os
import time

import keras
import numpy as np

from examples.paper.common.parallel import rank_and_ranks

TORCH = keras.config.backend() == "torch"
if TORCH:
    import torch
    import torch.distributed as group


class Checkpoint(keras.callbacks.Callback):
    """Store the complete training state in one file, and write the logs."""

    def __init__(self, folder, data, what, every=None):
        super().__init__()
        self.folder, self.data, self.what = folder, data, what
        self.every, self.file = every, folder / "checkpoint.npz"
        self.epoch, self.step, self.history = 0, 0, {}
        self.values = self.metrics = self.random = None
        if rank_and_ranks()[0] == 0:
            folder.mkdir(parents=True, exist_ok=True)

    def load(self, model):
        """Load the epoch and step; `on_train_begin` assigns the values."""
        if not self.file.is_file():
            return
        with np.load(self.file) as file:
            facts = json.loads(str(file["facts"]))
            self.values = [file[f"v{i}"] for i in range(facts["variables"])]
            self.metrics = [file[f"m{i}"] for i in range(facts["metrics"])]
            self.random = [file[f"r{i}"] for i in range(facts["random"])]
        for key, now in self.what.items():
            then = facts["what"].get(key)
            if then != now:
                raise SystemExit(
                    f"{self.folder} holds another run, with {key}={then}: "
                    f"remove it, or pass another --out. Received: {key}={now}"
                )
        self.epoch, self.step = facts["epoch"], facts["step"]
        self.history, self.data.first = facts["history"], self.step
        if self.step and len(model.metrics_variables) < len(self.metrics):
            model.test_on_batch(*self.data[0])  # This call creates them.

    def on_train_begin(self, logs=None):
        # Assign here and not earlier, because Keras first calls the model on a
        # batch, which changes the states of random layers.
        if self.values is not None:
            _assign(variables(self.model), self.values)
            self.values = None
            if not self.step:
                self._restore_random()
        if rank_and_ranks()[0] == 0:
            self.events = _events(self.folder / "tensorboard", self.epoch)

    def on_epoch_begin(self, epoch, logs=None):
        self.data.epoch = epoch
        if self.data.first:
            _assign(self.model.metrics_variables, self.metrics)

    def on_train_batch_begin(self, batch, logs=None):
        # Starting an epoch samples from PyTorch's generator.
        self._restore_random()

    def on_train_batch_end(self, batch, logs=None):
        step = self.data.first + batch + 1
        if self.every and step % self.every == 0 and batch + 1 < len(self.data):
            self.step = step
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(float(value))
        self.epoch, self.step, self.data.first = epoch + 1, 0, 0
        self._save()
        if rank_and_ranks()[0] == 0:
            with (self.folder / "log.csv").open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["epoch", *self.history])
                for i, row in enumerate(zip(*self.history.values())):
                    rows.writerow([i + 1, *row])
            self.events(epoch + 1, logs or {})

    def _save(self):
        rank, ranks = rank_and_ranks()
        if rank == 0:
            values = [read(v) for v in variables(self.model)]
            metrics = [read(v) for v in self.model.metrics_variables]
            facts = {"what": self.what, "history": self.history}
            facts |= {"epoch": self.epoch, "step": self.step}
            facts |= {"variables": len(values), "metrics": len(metrics)}
            random = _random_states()
            facts["random"] = len(random)
            arrays = {f"v{i}": value for i, value in enumerate(values)}
            arrays |= {f"m{i}": value for i, value in enumerate(metrics)}
            arrays |= {f"r{i}": value for i, value in enumerate(random)}
            new = self.file.with_suffix(".new")
            with new.open("wb") as file:
                np.savez(file, facts=json.dumps(facts), **arrays)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.file)  # atomic: a killed run leaves a valid file
        if ranks > 1:
            group.barrier()

    def _restore_random(self):
        for i, state in enumerate(self.random or ()):
            state = torch.from_numpy(state)
            if i == 0:
                torch.set_rng_state(state)
            else:
                torch.cuda.set_rng_state(state, i - 1)
        self.random = None


def _random_states():
    """Return the generators of PyTorch, which dropout without a seed uses."""
    if not TORCH:
        return []
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [state.numpy() for state in (torch.get_rng_state(), *cuda)]


def _events(folder, epoch):
    """Return a function that writes the logs of an epoch for TensorBoard."""
    try:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.compat.proto import summary_pb2
        from tensorboard.summary.writer import event_file_writer
    except ImportError as error:
        print(f"TensorBoard logs are not written: {error}")
        return lambda epoch, logs: None
    writer = event_file_writer.EventFileWriter(str(folder))

    def write(step, **content):
        event = event_pb2.Event(wall_time=time.time(), step=step, **content)
        writer.add_event(event)
        writer.flush()

    # TensorBoard discards later steps, which a killed process lost.
    start = event_pb2.SessionLog.START
    write(epoch + 1, session_log=event_pb2.SessionLog(status=start))
    return lambda epoch, logs: write(
        epoch,
        summary=summary_pb2.Summary(
            value=[
                summary_pb2.Summary.Value(tag=key, simple_value=float(value))
                for key, value in logs.items()
            ]
        ),
    )


def variables(model):
    return [*model.variables, *model.optimizer.variables]


def read(variable):
    # A copy of a MirroredVariable has no separate array.
    tensor = keras.ops.convert_to_tensor(variable)
    return keras.ops.convert_to_numpy(tensor)


def _assign(targets, values):
    for variable, value in zip(targets, values, strict=True):
        variable.assign(value)
