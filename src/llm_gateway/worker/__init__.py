"""The data plane: serve LLM calls from an in-memory snapshot of the configuration, without reading the database."""
