"""For tests of programs that use this client: a broker in memory, and adapters that need no training."""

from .adapters import FakeLine, FakeSigner
from .broker import InMemoryBroker, InMemorySink, InMemorySource

__all__ = ["FakeLine", "FakeSigner", "InMemoryBroker", "InMemorySink", "InMemorySource"]
