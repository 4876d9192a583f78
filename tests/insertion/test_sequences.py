"""A few of the random sequences of `insertion_sequences.py`.

The assertions are in that file: each operation checks its own effect, and
`Sequence.check` the names, statistics and counts after every operation.
"""

import insertion_sequences
import pytest

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("seed", range(1000, 1004))
def test_a_sequence_of_operations_keeps_every_promise(seed):
    _, *operations = insertion_sequences.run(seed, length=5)
    assert len(operations) == 5
