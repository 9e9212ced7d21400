"""The one form in which passages stand before a question: the gateway sends it, and public parts rehearse it.

What a model was trained on and what it is sent must be the same letter for letter, so nobody else writes this form. It
imports nothing that a machine for training lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalization.memory.cleaning import without_control_marks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

NOT_THERE = "The notes do not say."
"""What a model is taught to answer where the notes do not hold what is asked."""


def note(title: str, section: str, text: str, as_of: date) -> str:
    """Return one passage as a note: where it comes from, how old it is, what it says."""
    where = ", ".join(part for part in dict.fromkeys((title, section)) if part)
    return without_control_marks(f"[{where or 'note'}, as of {as_of.isoformat()}] {text}")


def with_notes(prompt: str, notes: Sequence[str]) -> str:
    """Return a prompt with notes before it; without notes the prompt as it is."""
    if not notes:
        return prompt
    return "Notes:\n" + "\n".join(f"- {one}" for one in notes) + f"\n\nAnswer from the notes.\n{prompt}"
