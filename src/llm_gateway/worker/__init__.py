"""The data plane: it answers calls, over a snapshot of the configuration and never over the database."""
