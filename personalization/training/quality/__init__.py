"""Measured quality: base, meta start, non-private and private adapters on users that training never saw."""
