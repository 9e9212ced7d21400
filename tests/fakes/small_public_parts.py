"""Public parts of few made-up texts, on a tiny random base that has nothing to forget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.training.run import fused
from personalization.training.styles import foundation, public_part, scales

if TYPE_CHECKING:
    import pytest


def make_public_parts_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a public part be made in a second; what limits a change of public text has tests of its own."""
    for name, count in (("PAIRS", 24), ("HELD_OUT", 8), ("REHEARSED", 6), ("INSTRUCTED", 2)):
        monkeypatch.setattr(public_part, name, count)
    monkeypatch.setattr(scales, "PAIRS", 8)
    monkeypatch.setattr(foundation, "LARGEST_CHANGE", 1e9)
    monkeypatch.setattr(fused, "LARGEST_CHANGE", 1e9)
