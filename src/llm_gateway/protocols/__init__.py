"""Translate chat requests, replies and streams between vendors' wire formats and the canonical conversation. No I/O."""
