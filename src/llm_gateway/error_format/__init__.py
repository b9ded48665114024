"""Error responses in the format of the requested path: problem details (RFC 9457), or a vendor protocol's own."""
