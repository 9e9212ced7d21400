"""A store that is full takes from whoever keeps most, whoever comes."""

from __future__ import annotations

from streams.gateway.fair import FairStore


def kept(store, tenant):
    return [key for key, _ in store.items(tenant)]


def test_a_tenant_alone_may_fill_it_and_gives_up_what_is_beyond_its_share():
    store = FairStore(6)
    for number in range(9):
        store.put("acme", number, str(number))
    assert kept(store, "acme") == [3, 4, 5, 6, 7, 8]
    for number in range(5):
        store.put("globex", number, "")
    assert (kept(store, "acme"), kept(store, "globex")) == ([6, 7, 8], [2, 3, 4])
    store.put("initech", 0, "")
    assert len(store) == 6
    assert kept(store, "initech") == [0]


def test_more_tenants_than_places_lose_the_oldest_tenants_and_what_is_left_is_forgotten_whole():
    store = FairStore(3)
    for number in range(5):
        store.put(f"tenant {number}", "key", number)
    assert store.tenants() == ("tenant 2", "tenant 3", "tenant 4")
    store.pop("tenant 2", "key")
    store.pop("tenant 2", "key")
    store.pop("tenant 3", "another")
    assert (store.tenants(), len(store)) == (("tenant 3", "tenant 4"), 2)
    store.put("tenant 3", "key", 33)
    assert (store.get("tenant 3", "key"), store.get("tenant 2", "key"), len(store)) == (33, None, 2)
