"""Pure functions of the method: moments, scores, selections, inhibitions."""
