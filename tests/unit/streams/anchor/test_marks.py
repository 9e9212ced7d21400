"""Each part that is anchored is compared by itself: no other part can make up for it."""

from __future__ import annotations

import pytest

from streams.anchor.marks import behind, ledger_mark, offsets_behind
from streams.contracts.anchor import (
    AnchorOffsetsV1,
    AnchorTenantV1,
    ConsumedV1,
    LedgerAnchorV1,
    LineAnchorV1,
)

DIGEST = "sha256:" + 64 * "1"
OTHER = "sha256:" + 64 * "2"


def line(**changes):
    return LineAnchorV1(
        **{
            "line_ref": "0123",
            "domain": "default",
            "epoch": 7,
            "last_version": 3,
            "withdrawn": (DIGEST,),
            **changes,
        }
    )


def tenant(**changes):
    ledger = LedgerAnchorV1(sequence=5, digest=DIGEST)
    base = {"ledger": ledger, "erasures": 2, "policy_version": 4, "lines": (line(),)}
    return AnchorTenantV1(group="g", owner="acme", timeline=0, **{**base, **changes})


def test_the_same_or_more_is_not_behind():
    assert behind(tenant(), tenant()) is None
    ahead = tenant(
        ledger=LedgerAnchorV1(sequence=6, digest=OTHER),
        erasures=3,
        policy_version=5,
        lines=(line(epoch=9, last_version=4, withdrawn=(DIGEST, OTHER)), line(line_ref="0456")),
    )
    assert behind(tenant(), ahead) is None
    assert behind(tenant(ledger=None, lines=()), tenant()) is None


@pytest.mark.parametrize(
    ("held", "text"),
    [
        (None, "the tenant is not there"),
        (tenant(ledger=None), "ends at entry 0, anchored is 5"),
        (tenant(ledger=LedgerAnchorV1(sequence=4, digest=OTHER)), "ends at entry 4"),
        (tenant(ledger=LedgerAnchorV1(sequence=5, digest=OTHER)), "entry 5 of its ledger is not the one"),
        (tenant(erasures=1), "1 erasures are recorded, anchored are 2"),
        (tenant(policy_version=3), "version 3"),
        (tenant(lines=()), "line 0123 is not there"),
        (tenant(lines=(line(epoch=6),)), "epoch 6, anchored is 7"),
        (tenant(lines=(line(last_version=2),)), "line 0123"),
        (tenant(lines=(line(withdrawn=()),)), "versions back that were withdrawn"),
    ],
)
def test_any_part_that_is_lower_is_named(held, text):
    assert text in behind(tenant(), held)


def test_offsets_are_compared_partition_by_partition():
    def offsets(*places):
        found = tuple(
            ConsumedV1(topic="t", partition=number, next_offset=offset) for number, offset in places
        )
        return AnchorOffsetsV1(group="g", timeline=0, offsets=found)

    assert offsets_behind(offsets((0, 5)), offsets((0, 5), (1, 0))) is None
    assert "partition 1 of t was consumed up to 0" in offsets_behind(offsets((0, 5), (1, 3)), offsets((0, 9)))
    assert "up to 4, anchored is 5" in offsets_behind(offsets((0, 5)), offsets((0, 4)))


def test_an_anchored_ledger_is_read_back():
    assert ledger_mark(LedgerAnchorV1(sequence=5, digest=DIGEST)).accounts == ()
