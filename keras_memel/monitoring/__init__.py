"""Monitor training runs and detect faults."""
