"""What is deleted of a memory is scrubbed wherever the database kept it."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from sqlalchemy.exc import OperationalError

from personalization.memory.scrubbing import scrub
from privacy.errors import StorageError


@pytest.mark.parametrize(
    ("table", "vacuumed"),
    [(None, ["memory_documents"]), ("memory_vectors", ["memory_documents", "memory_vectors"])],
)
def test_vectors_that_postgresql_keeps_are_vacuumed_with_the_documents(table, vacuumed):
    said = []
    connection = SimpleNamespace(
        exec_driver_sql=said.append, execute=lambda _: SimpleNamespace(scalar=lambda: table)
    )
    opened = SimpleNamespace(execution_options=lambda **_: nullcontext(connection))
    scrub(SimpleNamespace(dialect=SimpleNamespace(name="postgresql"), connect=lambda: opened))
    assert said == [f"VACUUM {name}" for name in vacuumed]


def test_a_database_that_refuses_is_a_failure_that_may_be_tried_again():
    def refuse(_):
        raise OperationalError("VACUUM", None, OSError("away"))

    opened = SimpleNamespace(
        execution_options=lambda **_: nullcontext(SimpleNamespace(exec_driver_sql=refuse))
    )
    with pytest.raises(StorageError, match="found no more") as error:
        scrub(SimpleNamespace(dialect=SimpleNamespace(name="postgresql"), connect=lambda: opened))
    assert error.value.retryable
