"""The monitor of a training run, and the faults that it detects."""
