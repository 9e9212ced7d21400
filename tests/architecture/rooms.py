"""Count the rooms and arrows of each package, and name the circles: ``python -m tests.architecture.rooms``.

A *room* is a folder of a package, or a module that lies directly in it. An *arrow* from one room to another means that
some file of the first imports something of the second; imports for the type checker and imports inside functions
count. A *circle* is a set of rooms each of which reaches every other.
"""

from __future__ import annotations

import ast
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
HOUSES = ("streams", "personalization", "personalization.training", "privacy")


def module_of(path: Path, root: Path) -> str:
    """Return the dotted name of a file, a package's own for its ``__init__.py``."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, root: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a file imports, wherever in the file it stands."""
    package = module_of(path, root).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room_of(name: str, house: str, root: Path) -> str | None:
    """Return the room of ``house`` in which a dotted name lies, None for the house itself and what is outside."""
    if not name.startswith(house + "."):
        return None
    room = name[len(house) + 1 :].split(".", maxsplit=1)[0]
    inside = root / house.replace(".", "/")
    return room if (inside / room).is_dir() or (inside / f"{room}.py").is_file() else None


def arrows_of(house: str, root: Path = ROOT) -> dict[str, set[str]]:
    """Return, for each room of ``house``, the other rooms that it imports."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for path in sorted((root / house.replace(".", "/")).rglob("*.py")):
        room = room_of(module_of(path, root), house, root)
        if room is None:
            continue
        found = {room_of(name, house, root) for name in imports_of(path, root)}
        arrows[room] |= {other for other in found if other is not None and other != room}
    return dict(arrows)


def circles_of(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of rooms that reach one another, each sorted."""
    reached: dict[str, set[str]] = {}
    for room in arrows:
        seen: set[str] = set()
        waiting = [room]
        while waiting:
            for other in arrows.get(waiting.pop(), set()) - seen:
                seen.add(other)
                waiting.append(other)
        reached[room] = seen
    together = {
        tuple(sorted(other for other in reached[room] if room in reached[other]))
        for room in arrows
        if room in reached[room]
    }
    return [list(circle) for circle in sorted(together)]


def lengths(root: Path = ROOT) -> dict[str, int]:
    """Return the number of lines of each module of the three packages."""
    tops = [house for house in HOUSES if "." not in house]
    return {
        path.relative_to(root).as_posix(): len(path.read_text("utf-8").splitlines())
        for top in tops
        for path in sorted((root / top).rglob("*.py"))
    }


def main(arguments: list[str]) -> int:
    """Print the numbers of every house, with ``--arrows`` each arrow, with ``--json`` everything for a program."""
    root = ROOT
    houses = {house: arrows_of(house, root) for house in HOUSES}
    lines = lengths(root)
    if "--json" in arguments:
        shown = {
            house: {room: sorted(others) for room, others in sorted(arrows.items())}
            for house, arrows in houses.items()
        }
        print(json.dumps({"houses": shown, "lines": lines}, indent=2))
        return 0
    for house, arrows in houses.items():
        count = sum(map(len, arrows.values()))
        print(f"{house}: {len(arrows)} rooms, {count} arrows, circles: {circles_of(arrows) or 'none'}")
        if "--arrows" in arguments:
            for room, others in sorted(arrows.items()):
                print(f"  {room} → {', '.join(sorted(others)) or '–'}")
    longest = max(lines, key=lambda name: lines[name])
    print(
        f"modules: {len(lines)}, median {median(lines.values()):.0f} lines, longest {longest} ({lines[longest]})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
