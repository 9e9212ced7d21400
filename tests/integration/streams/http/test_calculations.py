"""What takes long to calculate has a thread of its own, is remembered, and is limited for each caller."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from sqlalchemy import text

from privacy.policy import versions as policies
from privacy.storage.session import reading, transaction
from streams.errors import TooManyRequestsError
from streams.http.calculations import KEPT_SECONDS, CalculationLimits, Calculations
from tests.fakes.stream_records import NOW


class Slow:
    """A calculation that waits until it is let go."""

    def __init__(self):
        self.calls, self.threads = 0, set()
        self.go = threading.Event()

    def __call__(self, session):
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        assert session.execute(text("SELECT 1")).scalar_one() == 1
        assert self.go.wait(20)
        return {"n": self.calls}


def test_one_question_is_calculated_once_and_kept_for_a_while(engine):
    now, slow = [0.0], Slow()

    async def main():
        calculations = Calculations(engine, monotonic=lambda: now[0])
        asked = [asyncio.create_task(calculations.answer(f"caller {n}", ("q", 1), slow)) for n in range(30)]
        await asyncio.sleep(0)
        asked[0].cancel()  # who leaves takes nothing from the others
        slow.go.set()
        answers = await asyncio.gather(*asked[1:])
        assert answers == [{"n": 1}] * 29
        now[0] = KEPT_SECONDS - 1
        assert await calculations.answer("x", ("q", 1), slow) == {"n": 1}
        assert await calculations.answer("x", ("q", 2), slow) == {"n": 2}  # the ledger moved on
        now[0] = 2 * KEPT_SECONDS
        assert await calculations.answer("x", ("q", 1), slow) == {"n": 3}
        calculations.close()

    asyncio.run(main())
    assert len(slow.threads) == 1
    assert "calculation" in slow.threads.pop()


def test_a_caller_has_few_calculations_at_once_and_a_rate_and_takes_none_of_the_others(engine):
    now, slow = [0.0], Slow()
    limits = CalculationLimits(per_caller=2, waiting=3, burst=3, per_second=0.5)

    async def main():
        calculations = Calculations(engine, limits, monotonic=lambda: now[0])

        async def refused(caller, question):
            with pytest.raises(TooManyRequestsError) as error:
                await calculations.answer(caller, question, slow)
            return error.value.retry_after

        asked = [asyncio.create_task(calculations.answer("hog", n, slow)) for n in range(2)]
        await asyncio.sleep(0)
        assert await refused("hog", 3) == 1
        asked.append(asyncio.create_task(calculations.answer("other", 4, slow)))
        await asyncio.sleep(0)
        assert await refused("third", 5) == 1  # all seats are taken
        slow.go.set()
        await asyncio.gather(*asked)
        await calculations.answer("hog", 6, slow)
        assert await refused("hog", 7) == 2  # the burst is used up
        await calculations.answer("other", 8, slow)
        calculations.close()

    asyncio.run(main())


def test_what_fails_is_told_to_all_and_tried_again(engine):
    async def main():
        calculations = Calculations(engine)

        def fail(_):
            raise ValueError("no")

        for _ in range(2):
            with pytest.raises(ValueError, match="no"):
                await calculations.answer("x", "q", fail)
        calculations.close()

    asyncio.run(main())


def test_at_most_half_of_the_time_is_calculated(engine):
    async def main():
        calculations = Calculations(engine)

        def busy(_):
            time.sleep(0.1)
            return {}

        began = time.monotonic()
        for question in range(4):
            await calculations.answer("x", question, busy)
        calculations.close()
        return time.monotonic() - began

    assert asyncio.run(main()) >= 0.7


def test_who_reads_and_who_writes_do_not_wait_for_each_other(engine):
    """On SQLite a reader used to take the only write lock; a calculation then stopped ingest."""
    with reading(engine) as session:
        assert policies.list_tenants(session) == []
        with transaction(engine) as other:
            policies.register_tenant(other, "acme", actor="ann", now=NOW)
        assert policies.list_tenants(session) == []  # one state, from first to last
    with transaction(engine) as writing:
        policies.register_tenant(writing, "globex", actor="ann", now=NOW)
        with reading(engine) as session:
            assert [tenant.tenant_id for tenant in policies.list_tenants(session)] == ["acme"]
