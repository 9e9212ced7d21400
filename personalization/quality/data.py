"""Recorded interactions as users: which are trained on, which are held out, and in which window of time they lie.

A line of ``<tenant>.jsonl.gz`` has ``user``, ``id``, ``at`` (unix seconds), ``prompt`` and ``completion``. The split is
by user and depends on the seed and the user's name alone. A tenant may be named by a path from the folder, as
``../commits/kafka``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from personalization.training.errors import JobInvalidError
from personalization.training.jobs.job import Example, UserExamples

SUFFIX = ".jsonl.gz"


@dataclass(frozen=True, kw_only=True)
class TenantUsers:
    """One tenant's users, split once.

    Attributes:
        tenant: its name.
        train: users that may be trained on, in a fixed random order (N users are the first N).
        heldout: users that are only ever measured on.
        choosing: users that are neither trained on nor measured on: by them lengths and rates of comparisons that keep
            no promise are chosen.
    """

    tenant: str
    train: tuple[UserExamples, ...]
    heldout: tuple[UserExamples, ...]
    choosing: tuple[UserExamples, ...] = ()


def tenants_in(folder: Path) -> list[str]:
    """Return the names of the tenants recorded in a folder."""
    return sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}"))


def read_tenant(
    folder: Path,
    tenant: str,
    *,
    heldout_users: int,
    train_users: int,
    contribution_bound: int,
    choosing_users: int = 0,
    seed: int = 0,
    window: tuple[float, float] = (0.0, 1.0),
) -> TenantUsers:
    """Return a tenant's users, split by user.

    Args:
        folder: holds ``<tenant>.jsonl.gz``.
        tenant: which one.
        heldout_users: how many users are kept back.
        train_users: at most so many to train on.
        contribution_bound: at most so many interactions of one user, chosen by a hash of their ids.
        choosing_users: how many users are kept back for choices; they are the last ones, so the others stay the same.
        seed: of the split.
        window: only interactions between these quantiles of the tenant's times.

    Raises:
        JobInvalidError: there is no such file, a line is not of the format, or too few users are in it.
    """
    path = folder / f"{tenant}{SUFFIX}"
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        times = sorted(float(row["at"]) for row in rows)
        first, last = (times[min(len(times) - 1, int(share * len(times)))] for share in window)
        by_user: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            if first <= float(row["at"]) <= last:
                by_user.setdefault(str(row["user"]), []).append(row)
        users = [
            UserExamples(
                examples=tuple(
                    Example(prompt=str(row["prompt"]), completion=str(row["completion"]))
                    for row in sorted(by_user[user], key=lambda row: _place(seed, str(row["id"])))[
                        :contribution_bound
                    ]
                )
            )
            for user in sorted(by_user, key=lambda user: _place(seed, user))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobInvalidError(
            f"{path.name} cannot be read as recorded interactions ({type(error).__name__}); it needs lines with user, "
            "id, at, prompt and completion"
        ) from error
    last = len(users) - choosing_users
    if last <= heldout_users:
        raise JobInvalidError(
            f"the tenant {tenant} has {len(users)} users; {heldout_users + choosing_users} are asked to be held out, "
            "so none is left"
        )
    return TenantUsers(
        tenant=tenant,
        heldout=tuple(users[:heldout_users]),
        train=tuple(users[heldout_users : min(last, heldout_users + train_users)]),
        choosing=tuple(users[last:]),
    )


def texts(users: Sequence[UserExamples]) -> list[tuple[str, str]]:
    """Return all (prompt, completion) pairs of some users."""
    return [(example.prompt, example.completion) for user in users for example in user.examples]


def _place(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
