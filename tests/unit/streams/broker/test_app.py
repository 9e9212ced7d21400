from streams.broker.app import EMBEDDED_REBALANCE_SECONDS, make_app
from streams.settings import BrokerSettings, IngestSettings


def conf(**settings):
    return make_app(BrokerSettings(bootstrap="localhost:9", **settings), {}, max_poll_records=10).conf


def test_members_ask_the_embedded_broker_for_short_times_since_it_waits_for_the_dead():
    assert conf(embedded=True).broker_rebalance_timeout == EMBEDDED_REBALANCE_SECONDS
    assert conf(embedded=True, rebalance_timeout_seconds=5).broker_rebalance_timeout == 5
    assert conf(embedded=False).broker_rebalance_timeout == BrokerSettings().rebalance_timeout_seconds


def test_a_member_has_the_time_to_finish_what_it_has_in_progress():
    assert IngestSettings().drain_seconds < EMBEDDED_REBALANCE_SECONDS
