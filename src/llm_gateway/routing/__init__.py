"""Routing: choose which providers and models to try for a request, and in what order."""
