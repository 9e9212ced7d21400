"""What goes over the wire: topics as data, CloudEvents envelopes, event types, and how to read them.

This package and ``streams.client`` are also built as the small wheel ``discreet-client``; both use relative
imports only and need pydantic and kafka-python, nothing else.
"""
