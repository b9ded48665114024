"""Where complete answers are kept, under an opaque key, as bytes."""
