"""What happens to a call, one step a file, in the order that `worker/gateway.py` tells."""
