"""Dashboard at /ui: pages for people, over the public API and nothing else."""
