"""Scores of answers and of probabilities: convention match, chrF and expected calibration error. Pure functions."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_PREFIX = re.compile(r"^\s*(?P<prefix>[^\s:()]{1,40}(?:\([^)]{0,40}\))?!?)\s*(?P<mark>:)")
_TICKET = re.compile(r"[A-Za-z]+-\d+")
CHRF_ORDER = 6
CHRF_BETA = 2.0
ECE_BINS = 10


def convention(text: str) -> str:
    """Return the convention that a subject line opens with: a prefix or scope before a colon, numbers left out.

    ``fix(menu): …`` gives ``fix()``, ``KAFKA-12: …`` and ``KAFKA-12 …`` give ``KAFKA-n``, ``net/http: …`` gives
    ``path``, a bare word its own lower or upper case kept; without any, ``""``.
    """
    first = text.strip().split("\n")[0]
    ticket = _TICKET.match(first)
    if ticket is not None:
        return ticket[0].split("-")[0] + "-n"
    match = _PREFIX.match(first)
    if match is None:
        return ""
    prefix = match["prefix"]
    if "(" in prefix:
        return prefix.split("(")[0] + "()"
    return "path" if "/" in prefix else prefix


def prefix_matches(answer: str, wanted: str) -> bool:
    """Say whether an answer opens with the very prefix or ticket project that the user wrote."""
    return convention(answer) == convention(wanted)


def chrf(answer: str, wanted: str) -> float:
    """Return the character n-gram F-score (order 6, β = 2, spaces ignored), 0 to 100.

    Source: Popović, "chrF: character n-gram F-score for automatic MT evaluation" (2015).
    """
    left, right = "".join(answer.split()), "".join(wanted.split())
    precisions, recalls = [], []
    for order in range(1, CHRF_ORDER + 1):
        ours, theirs = _grams(left, order), _grams(right, order)
        if not ours and not theirs:
            continue
        common = sum((ours & theirs).values())
        precisions.append(common / max(1, sum(ours.values())))
        recalls.append(common / max(1, sum(theirs.values())))
    if not precisions:
        return 100.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    if precision + recall == 0:
        return 0.0
    return 100.0 * (1 + CHRF_BETA**2) * precision * recall / (CHRF_BETA**2 * precision + recall)


def expected_calibration_error(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """Return the mean gap between confidence and accuracy over ten equally wide bins, weighted by their counts.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    if len(confidences) != len(correct) or not confidences:
        raise ValueError("confidences and outcomes must be of the same length, at least one")
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, right in zip(confidences, correct, strict=True):
        bins.setdefault(min(ECE_BINS - 1, math.floor(confidence * ECE_BINS)), []).append((confidence, right))
    gaps = (
        abs(sum(confidence for confidence, _ in one) - sum(right for _, right in one))
        for one in bins.values()
    )
    return sum(gaps) / len(confidences)


def _grams(text: str, order: int) -> Counter[str]:
    return Counter(text[start : start + order] for start in range(len(text) - order + 1))
