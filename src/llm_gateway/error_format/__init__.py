"""Errors as HTTP, as clients of each path read them."""
