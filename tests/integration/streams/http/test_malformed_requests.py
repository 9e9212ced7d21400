"""A seeded slice of the fuzz run (``tests/benchmarks/fuzz_http.py`` is the long one): a 4xx for whatever is wrong."""

from tests.benchmarks.fuzz_http import fuzz_gateway, fuzz_operator, fuzz_serving


def test_no_request_to_the_operator_api_is_a_crash(engine):
    found = fuzz_operator(engine, seed=7, count=400)
    assert found.crashes == {}
    assert set(found.statuses) >= {"200", "400", "401", "404", "422"}


def test_no_request_to_the_serving_process_is_a_crash():
    found = fuzz_serving(seed=7, count=400)
    assert found.crashes == {}
    assert set(found.statuses) >= {"200", "400", "401", "404", "413"}


def test_no_request_to_the_gateway_is_a_crash(tmp_path):
    found = fuzz_gateway(seed=7, count=400, folder=tmp_path)
    assert found.crashes == {}
    assert set(found.statuses) >= {"200", "202", "400", "404"}
