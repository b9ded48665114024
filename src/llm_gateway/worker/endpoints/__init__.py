"""The paths that clients call, one endpoint a file."""
