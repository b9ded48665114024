"""Declarative configuration: compare a document with the stored configuration, and apply it in one transaction."""
