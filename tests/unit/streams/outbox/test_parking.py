"""What cannot be sent waits longer each time, up to a bound, and never fills the memory."""

from streams.outbox.parking import FIRST_PAUSE_SECONDS, MOST_ROWS_OF_A_TOPIC, Parking


def test_pauses_grow_up_to_the_longest():
    parking, now, pauses = Parking(10.0), 0.0, []
    for _ in range(6):
        parking.park_row(1, "t", now)
        assert parking.due_rows(now) == []
        pause = next(step for step in (1, 2, 4, 8, 10) if parking.due_rows(now + step))
        pauses.append(pause)
        now += pause
    assert pauses == [1, 2, 4, 8, 10, 10]
    assert FIRST_PAUSE_SECONDS == 1


def test_a_row_that_failed_in_company_is_tried_at_once_and_counts_when_it_fails_alone():
    parking = Parking(10.0)
    parking.suspect(1, "t", 5.0)
    assert (parking.due_rows(5.0), len(parking)) == ([1], 0)
    assert parking.free_row(1) is False
    parking.suspect(2, "t", 5.0)
    assert parking.park_row(2, "t", 5.0) == 1
    assert (parking.due_rows(5.5), len(parking)) == ([], 1)
    parking.suspect(2, "t", 5.5)  # knows nothing new
    assert parking.due_rows(5.5) == []
    assert parking.free_row(2) is True


def test_a_topic_takes_its_rows_along():
    parking = Parking(10.0)
    parking.park_row(1, "t", 0.0)
    parking.park_row(2, "u", 0.0)
    parking.park_topic("t", 0.0)
    assert (list(parking.rows), list(parking.topics), len(parking)) == ([2], ["t"], 2)
    assert (parking.due_topics(0.5), parking.due_topics(1.0)) == ([], ["t"])
    parking.free_topic("t")
    assert len(parking) == 1


def test_a_topic_of_which_very_many_rows_fail_waits_as_a_whole():
    parking = Parking(10.0)
    for row in range(MOST_ROWS_OF_A_TOPIC + 1):
        parking.park_row(row, "t", 0.0)
    assert (list(parking.rows), list(parking.topics)) == ([], ["t"])
