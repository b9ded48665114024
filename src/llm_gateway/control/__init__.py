"""The control plane: it manages, reports, stores usage and describes; it may touch the database."""
