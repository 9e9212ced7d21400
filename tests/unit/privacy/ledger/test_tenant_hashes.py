"""The hashes that start from prepared states are those that start from the key."""

from __future__ import annotations

import pytest

from privacy.keys.pseudonyms import TenantHashes, eviction_rank, pseudonym


@pytest.mark.parametrize("key", [b"\x00" * 32, bytes(range(32)), b"\xff" * 64, b"k"])
@pytest.mark.parametrize("user", ["u", "user-1", "Ü" * 300])
def test_prepared_hashes_equal_the_plain_ones(key, user):
    hashes = TenantHashes(key, "acme")
    for _ in range(2):  # a second use starts from the same state
        name = hashes.pseudonym(user)
        assert name == pseudonym(key, "acme", user)
        assert hashes.eviction_rank(name, b"d" * 32) == eviction_rank(key, name, b"d" * 32)


def test_a_key_longer_than_a_block_is_refused():
    with pytest.raises(ValueError, match="65 bytes"):
        TenantHashes(b"k" * 65, "acme")


@pytest.mark.parametrize(
    "later", [1, 3, 25]
)  # of 25 some begin with a letter that an earlier key has as well
def test_a_name_of_any_key_is_brought_up_to_the_newest(later):
    hashes = TenantHashes(b"k" * 32, "acme", [bytes([number]) * 32 for number in range(later)])
    names = hashes.names(hashes.first("u"))
    assert len(set(names)) == later + 1
    for name in names[-20:] if later > 20 else names:
        assert hashes.brought_up(name) == names[-1]
