"""What happens to a call, one step a file; the steps do not import each other."""
