"""Control plane: management API, usage reports, health, API documentation. It may wait for the database."""
