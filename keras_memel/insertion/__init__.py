"""MEmeL in existing models: find, insert, inserted, strip, save."""
