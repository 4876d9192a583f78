"""PyTorch on one thread: the tests share the processor, their tensors are
small, and threads that wait for one another would take most of the time."""

import keras
import pytest


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
