"""The usage journal: append, sync, replay, ship."""
