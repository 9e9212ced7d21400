"""What was measured of the mechanics of meta-learning, told in lines and as rows ``name, value, unit, must, ok``.

``must`` and ``ok`` are None where nothing is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from personalization.quality.targets import PUBLIC_TEXT_CHANGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REMEMBERING = frozenset({"remember", "remember, with cards"})  # switches that earlier windows may not lose by
REMEMBERED = 0.01  # what earlier windows may lose after the last release


def rows_of(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each figure of what was measured, losses in nats per token."""
    return [row for one in measured for row in _figures(one)]


def _figures(one: dict[str, Any]) -> Iterator[dict[str, Any]]:
    what = f"{one['mechanic']}, {one['tenant']}, {one['switch']}"
    if one["mechanic"] == "continual":
        # Asked for where the policy asks to remember; the other ways show what that is worth.
        must = f"<= {REMEMBERED:g}" if one["switch"] in REMEMBERING else None
        ok = one["ok"] if must else None
        yield _row(
            f"{what}: earlier windows after the last release, worst", one["worst"], "share", must, ok=ok
        )
        yield _row(f"{what}: loss of all windows after the last release", one["served"], "nats per token")
        if one["bwt"] is not None:
            yield _row(f"{what}: backward transfer", one["bwt"]["value"], "nats per token")
        return
    yield _row(f"{what}: gain", one["gain"]["value"], "nats per token")
    yield _row(f"{what}: gain, low end of its 95 % interval", one["gain"]["low"], "nats per token")
    if "exact" in one:
        yield _row(f"{what}: the very same losses", float(one["exact"]), "yes or no", "= 1", ok=one["exact"])
    if one.get("public_text_change") is not None:
        change = one["public_text_change"]
        must = f"<= {PUBLIC_TEXT_CHANGE:g}" if one["switch"] == "with correction" else None
        ok = change <= PUBLIC_TEXT_CHANGE if must else None
        yield _row(f"{what}: public text", change, "share", must, ok=ok)


def _row(
    name: str, value: float, unit: str, must: str | None = None, *, ok: bool | None = None
) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "must": must, "ok": ok}


def told(row: dict[str, Any]) -> str:
    """Return one row in a line."""
    head = f"{row['mechanic']}, {row['tenant']}, {row['switch']}: "
    if row["mechanic"] == "continual":
        bwt = "" if row["bwt"] is None else f", BWT {row['bwt']['value']:+.3f} nats"
        return (
            f"{head}earlier windows {100 * row['worst']:+.1f} % at worst{bwt} (at most {100 * row['limit']:.0f} %: "
            f"{'yes' if row['ok'] else 'no'})"
        )
    gain = row["gain"]
    low, high = gain["low"], gain["high"]
    line = f"{head}{row['base']:.3f} → {row['after']:.3f}, gain {gain['value']:.3f} [{low:.3f}, {high:.3f}]"
    if "gate" in row:
        change = row["public_text_change"]
        line += f", public text {100 * change:+.1f} %, the gate {row['gate']}" if change is not None else ""
    return line
