"""From a request and a snapshot of the configuration to a plan."""
