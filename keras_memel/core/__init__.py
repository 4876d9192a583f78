"""The method as pure functions: moments, scores, selections, inhibitions."""
