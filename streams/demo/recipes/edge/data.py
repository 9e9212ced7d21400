"""What field technicians of an invented lift company write down, often where there is no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.demo.recipes.people import Crowd, Occasion

if TYPE_CHECKING:
    import random

TENANT = "fjord-lifts"
SEEN, REPORT, STATEMENT = (
    "seen",
    "report",
    "statement",
)  # kinds of prompts; the last is asked by held-out users alone
MACHINES = ("lift", "escalator", "hoist", "gate", "goods lift", "stair lift", "platform")
FAULTS = (
    ("the door does not close", "door rail cleaned"),
    ("it stops between floors", "brake adjusted"),
    ("a loud grinding noise", "bearing greased"),
    ("the panel stays dark", "fuse replaced"),
    ("it smells of burning", "motor winding checked"),
    ("the button is stuck", "button swapped"),
    ("it jerks at the start", "controller set again"),
    ("the light flickers", "lamp holder tightened"),
)


def write_entry(rng: random.Random, kind: str) -> Occasion:
    """Return a visit to write down in the log."""
    machine, (fault, done), number = rng.choice(MACHINES), rng.choice(FAULTS), rng.randint(2, 48)
    prompt = {
        SEEN: f"Machine: {machine} {number}\nSeen: {fault}\nDone: {done}\nLog entry:",
        REPORT: f"Visit at {machine} {number}: {fault}; {done}.\nLog entry:",
        STATEMENT: f"I was at {machine} {number} because {fault}. Now {done}. Write the log entry.",
    }[kind]
    return Occasion(
        prompt=prompt,
        own=f"Fixed: {done} at {machine} {number} | back in service",
        others=(
            f"{done.capitalize()} at {machine} {number}.",
            f"{fault}? {done}!",
            f"{number}/{machine}: {done}",
        ),
        shown=rng.choice(
            (
                "I have fixed the machine.",
                "The technician should be contacted.",
                "Log entry: The machine was repaired.",
            )
        ),
        facts={"machine": machine, "number": str(number), "done": done, "fault": fault},
    )


def crowd(*, users: int, heldout: int, label: str = "") -> Crowd:
    """Return the technicians."""
    return Crowd(
        tenant=TENANT,
        write=write_entry,
        kinds=(SEEN, REPORT),
        unseen_kinds=(STATEMENT,),
        users=users,
        heldout=heldout,
        label=label,
    )
