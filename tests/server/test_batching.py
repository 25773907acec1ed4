"""The queue before the model: sharing, fairness, changes, shedding."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from routerretriever.server.batching import Batcher, Closed, Overloaded, Row
from routerretriever.server.batching.grouping import by_length
from routerretriever.server.metrics import LastHour
from routerretriever.server.settings import Batching, Limits


def rows(name, count=1, cost=1):
    return [Row(content=f"{name}{number}", kind="query", expert=None, cost=cost) for number in range(count)]


class Encoder:
    """Answers each row with its text, one batch whenever the test lets it."""

    def __init__(self):
        self.batches, self.go, self.entered = [], threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, batch, parallel):
        self.entered.release()
        assert self.go.acquire(timeout=10)
        self.batches.append([row.content for row in batch])
        if any(row.content.startswith("bad") for row in batch):
            raise RuntimeError("bad row")
        return [row.content for row in batch]


@pytest.fixture
def encoder():
    return Encoder()


@pytest.fixture
def make(encoder):
    made = []

    def build(limits=None, workers=1, **batching):
        batching = Batching(**{"rows": 4, "tokens": 1000, "wait": 0.0, **batching})
        made.append(
            Batcher(
                encoder,
                batching=batching,
                workers=workers,
                limits=limits or Limits(),
                observe=lambda facts: None,
            )
        )
        return made[-1]

    yield build
    encoder.go.release(1000)
    for batcher in made:
        batcher.close()


def test_requests_share_batches_and_get_their_own_rows(make, encoder):
    batcher = make()
    first = batcher.submit(rows("a"))
    encoder.entered.acquire()  # its batch is running; what comes now waits
    others = [batcher.submit(rows(name, 2)) for name in "bc"]
    encoder.go.release(2)
    assert first.result(5) == ["a0"]
    assert [future.result(5) for future in others] == [["b0", "b1"], ["c0", "c1"]]
    assert encoder.batches == [["a0"], ["b0", "b1", "c0", "c1"]]


def test_a_small_request_waits_for_one_batch_of_a_large_one(make, encoder):
    batcher = make()
    large = batcher.submit(rows("large", 100))
    encoder.entered.acquire()
    small = batcher.submit(rows("small"))
    encoder.go.release(2)
    assert small.result(5) == ["small0"]
    assert len(encoder.batches) == 2 and not large.done()
    encoder.go.release(100)
    assert large.result(5) == [f"large{number}" for number in range(100)]


def test_long_texts_make_small_batches_and_an_overlong_one_goes_alone(make, encoder):
    batcher = make(tokens=100)
    encoder.go.release(100)
    future = batcher.submit([*rows("short", 2, 10), *rows("overlong", 1, 500), *rows("long", 3, 60)])
    assert len(future.result(5)) == 6
    assert encoder.batches == [["short0", "short1"], ["overlong0"], ["long0"], ["long1"], ["long2"]]


def test_a_change_comes_between_what_was_accepted_before_and_after(make, encoder):
    batcher = make()
    first = batcher.submit(rows("a", 6))
    encoder.entered.acquire()
    seen = []
    change = batcher.change(lambda: seen.append(sum(map(len, encoder.batches))))
    later = batcher.submit(rows("b"))
    encoder.go.release(100)
    change.result(5), later.result(5)
    assert first.result(5) == [f"a{number}" for number in range(6)]
    assert seen == [6] and encoder.batches[-1] == ["b0"]


def test_a_failed_batch_fails_its_requests_and_no_other(make, encoder):
    batcher = make()
    bad = batcher.submit(rows("bad"))
    encoder.entered.acquire()
    good = batcher.submit(rows("good"))
    encoder.go.release(2)
    with pytest.raises(RuntimeError, match="bad row"):
        bad.result(5)
    assert good.result(5) == ["good0"]


def test_a_text_that_cannot_be_encoded_fails_its_own_request_only(make, encoder):
    batcher = make()
    first = batcher.submit(rows("a"))
    encoder.entered.acquire()  # what comes now goes into one batch
    good, bad, fine = (batcher.submit(rows(name)) for name in ("good", "bad", "fine"))
    encoder.go.release(10)
    first.result(5)
    with pytest.raises(RuntimeError, match="bad row"):
        bad.result(5)
    assert (good.result(5), fine.result(5)) == (["good0"], ["fine0"])
    assert encoder.batches[1] == ["good0", "bad0", "fine0"]
    assert batcher.waiting == 0


def test_a_change_that_fails_says_so(make):
    with pytest.raises(ZeroDivisionError):
        make().change(lambda: 1 / 0).result(5)


def test_too_much_waiting_is_refused_with_a_time(make, encoder):
    batcher = make(Limits(waiting_requests=2))
    futures = [batcher.submit(rows(name)) for name in "ab"]
    with pytest.raises(Overloaded) as refused:
        batcher.submit(rows("c"))
    assert refused.value.seconds >= 1
    encoder.go.release(10)
    assert [future.result(5) for future in futures] == [["a0"], ["b0"]]
    assert batcher.submit(rows("c")).result(5) == ["c0"]


def test_closing_finishes_what_was_accepted_and_takes_no_more(make, encoder):
    batcher = make()
    futures = [batcher.submit(rows(name, 3)) for name in "abc"]
    encoder.go.release(100)
    batcher.close()
    assert all(len(future.result(0)) == 3 for future in futures)
    with pytest.raises(Closed):
        batcher.submit(rows("d"))
    with pytest.raises(Closed):
        batcher.change(lambda: None)


def test_who_went_away_is_not_waited_for(make, encoder):
    batcher = make()
    first = batcher.submit(rows("a"))
    encoder.entered.acquire()
    gone = batcher.submit(rows("gone", 100))
    gone.cancel()
    encoder.go.release(2)
    first.result(5)
    later = batcher.submit(rows("b"))
    encoder.go.release(2)
    assert later.result(5) == ["b0"]
    assert sum(text.startswith("gone") for batch in encoder.batches for text in batch) <= 4


def test_idle_workers_get_their_part_unless_there_is_little_to_divide(make, encoder):
    batcher = make(workers=2, rows=64, divided=3)
    one = batcher.submit(rows("one", 20))
    encoder.entered.acquire(), encoder.entered.acquire()  # both are at work
    encoder.go.release(100)
    assert one.result(5) == [f"one{number}" for number in range(20)]
    assert [len(batch) for batch in encoder.batches] == [10, 10]
    encoder.batches.clear()
    assert batcher.submit(rows("few", 3)).result(5) == ["few0", "few1", "few2"]
    assert [len(batch) for batch in encoder.batches] == [3]


def test_batches_know_how_many_share_the_cores(make, encoder, monkeypatch):
    told = []
    monkeypatch.setattr(Encoder, "__call__", told_of(told, Encoder.__call__))
    batcher = make(workers=2)
    first = batcher.submit(rows("a"))
    encoder.entered.acquire()
    second = batcher.submit(rows("b"))
    encoder.entered.acquire()
    encoder.go.release(2)
    first.result(5), second.result(5)
    assert told == [1, 2]


def told_of(told, call):
    def noting(self, batch, parallel):
        told.append(parallel)
        return call(self, batch, parallel)

    return noting


def test_a_change_runs_alone_among_several_workers(make, encoder):
    batcher = make(workers=3, divided=1)
    before = [batcher.submit(rows(name)) for name in "abc"]
    for _ in before:
        encoder.entered.acquire()
    at_work = []
    change = batcher.change(
        lambda: at_work.append((len(encoder.batches), encoder.entered.acquire(timeout=0.1)))
    )
    after = batcher.submit(rows("d"))
    encoder.go.release(2)
    assert not encoder.entered.acquire(
        timeout=0.1
    )  # one is still running: neither the change nor the next begins
    assert not change.done()
    encoder.go.release(10)
    change.result(5)
    assert after.result(5) == ["d0"] and [future.result(5) for future in before] == [["a0"], ["b0"], ["c0"]]
    assert at_work == [(3, False)]


def test_a_request_that_fails_in_one_of_two_batches_fails_once(make, encoder):
    batcher = make(workers=2, divided=1)
    mixed = batcher.submit([*rows("bad", 2), *rows("good", 2)])
    encoder.entered.acquire(), encoder.entered.acquire()
    encoder.go.release(2)
    with pytest.raises(RuntimeError, match="bad row"):
        mixed.result(5)
    encoder.go.release(1)
    assert batcher.submit(rows("later")).result(5) == ["later0"]
    assert batcher.waiting == 0


def test_texts_of_like_length_go_together_where_it_pays():
    costs = [10] * 30 + [250] * 2 + [12] * 30
    groups = by_length(range(len(costs)), costs.__getitem__)
    assert sorted(map(len, groups)) == [2, 60]
    assert by_length([0], costs.__getitem__) == [[0]] and by_length([], costs.__getitem__) == []
    even = [10, 11, 12, 13]
    assert by_length(range(4), even.__getitem__) == [[0, 1, 2, 3]]


def test_counts_of_the_last_hour_forget():
    served = LastHour()
    for minute in (0, 0, 30, 59):
        served.add({("team", "a"): 1}, minute)
    served.add({("other", "a"): 3}, 59)
    assert served.totals("team", 59)["a"] == 4 and served.totals(None, 59)["a"] == 7
    assert served.totals("team", 60)["a"] == 2
    assert served.totals("team", 1000)["a"] == 0


def test_counts_of_the_last_hour_are_not_read_while_they_change():
    served = LastHour()
    served.add({("", "a"): 1}, 0)
    with ThreadPoolExecutor(1) as pool:
        with served._lock:
            totals = pool.submit(served.totals, None, 0)
            with pytest.raises(TimeoutError):
                totals.result(0.1)
        assert totals.result(5)["a"] == 1
