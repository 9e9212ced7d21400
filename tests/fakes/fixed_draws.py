"""Draws that are the same in every run, for tests that say exactly what comes of noise.

A reading of drift errs with a probability of up to its level (0.1 % here, and 0.04 % as simulated), and a look at the
reactions of few users with up to 0.3 %: tests that have dozens of them would fail now and then where nothing is wrong.
Whether noise follows the law that is charged is for tests of the mechanisms to say.
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from hashlib import shake_256

import pytest

MODULES = (
    "personalization.drift.protocol",  # noise of readings
    "personalization.registry.comparisons",  # noise of looks
    "personalization.registry.succession",  # who gets a candidate
)


class FixedDraws:
    """Stands where a module has ``secrets``; no draw comes twice."""

    def __init__(self, name):
        self._name, self._drawn = name, 0

    def token_bytes(self, size):
        self._drawn += 1
        return shake_256(f"{self._name} {self._drawn}".encode()).digest(size)

    def token_hex(self, size):
        return self.token_bytes(size).hex()


@contextmanager
def drawing_the_same():
    """Have the modules draw from their own names, with a patch that a test's own ``undo`` leaves alone."""
    with pytest.MonkeyPatch.context() as patch:
        for name in MODULES:
            patch.setattr(importlib.import_module(name), "secrets", FixedDraws(name))
        yield
