"""A few of the random sequences of `insertion_sequences.py`."""

import insertion_sequences
import pytest

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("seed", range(1000, 1004))
def test_a_sequence_of_operations_keeps_every_promise(seed):
    insertion_sequences.run(seed, length=5)
