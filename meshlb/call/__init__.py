"""The attempt loop as decisions: no I/O, no waiting; the adapters wait and send."""
