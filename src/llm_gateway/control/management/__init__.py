"""Management API: what is configured, who may call, what may be spent and was, what was changed, and health."""
