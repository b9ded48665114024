"""Request handling shared by the data plane and the management API: authentication, request ids, headers, body."""
