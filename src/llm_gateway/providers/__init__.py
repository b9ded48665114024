"""The wire dialects: canonical form to one vendor protocol a file. Pure functions, no I/O."""
