"""Endpoints of the data plane: decode a client's request, run it through the gateway, encode the answer."""
