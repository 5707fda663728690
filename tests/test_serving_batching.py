"""Texts of several callers in one batch: who goes when, what is refused, and what is never lost."""

from __future__ import annotations

import time

import numpy as np
import pytest

from helpers_serving import Gate
from milco_hf.encoding.rows import Job, Rows
from milco_hf.pruning import parse
from milco_hf.serving.batching import Batcher
from milco_hf.serving.errors import Refused

JOB = Job()


def lengths_as_vectors(batch, job):
    """Of each text one dimension: its length, with its first token as the weight."""
    return Rows(np.ones(len(batch.ids), dtype=np.int64), batch.lengths.astype(np.int32), batch.ids[:, 0].astype(float))


def text(length, name=1):
    return np.full(length, name, dtype=np.int32)


@pytest.fixture
def gated():
    """A batcher whose worker waits, with a first text in it, so that what comes after gathers."""
    gate = Gate(lengths_as_vectors)
    batcher = Batcher([gate], max_tokens=128, max_queue=20, pad=0)
    first = batcher.submit([text(16)], JOB, 30)
    assert gate.entered.wait(60)
    yield batcher, gate, first
    gate.free.set()
    assert batcher.close(60)


def test_texts_of_several_callers_share_a_batch_and_get_their_own_vectors(gated):
    batcher, gate, first = gated
    requests = [batcher.submit([text(16 + n, 10 * n), text(17, 10 * n + 1)], JOB, 30) for n in range(3)]
    gate.free.set()
    assert [len(r.future.result(60)) for r in (first, *requests)] == [1, 2, 2, 2]
    assert len(gate.batches) == 2
    assert len(gate.batches[1].ids) == 6
    for n, request in enumerate(requests):
        (columns, weights), (other, other_weights) = request.future.result()
        assert (columns.tolist(), weights.tolist()) == ([16 + n], [10 * n])
        assert (other.tolist(), other_weights.tolist()) == ([17], [10 * n + 1])
        assert request.queue_seconds > 0


def test_texts_of_several_languages_share_a_batch(gated):
    batcher, gate, first = gated
    one = batcher.submit([text(16), text(18)], JOB, 30, [3, 1])
    two = batcher.submit([text(17)], JOB, 30, [0])
    gate.free.set()
    for request in (first, one, two):
        request.future.result(60)
    assert gate.batches[0].adapters is None, "an encoder without"
    batch = gate.batches[1]
    assert dict(zip(batch.lengths.tolist(), batch.adapters.tolist())) == {16: 3, 17: 0, 18: 1}


def test_a_batch_keeps_to_the_budget_and_has_texts_of_one_length(gated):
    batcher, gate, _ = gated
    request = batcher.submit([text(n) for n in (20, 100, 21, 19, 101, 22, 64, 63)], JOB, 30)
    gate.free.set()
    vectors = request.future.result(60)
    assert [columns[0] for columns, _ in vectors] == [20, 100, 21, 19, 101, 22, 64, 63]
    assert all(batch.ids.size <= 128 for batch in gate.batches)
    # who waits longest goes first, with those that are about as long
    assert sorted(gate.batches[1].lengths.tolist()) == [19, 20, 21, 22]
    assert sorted(sorted(batch.lengths.tolist()) for batch in gate.batches[2:]) == [[63, 64], [100], [101]]


def test_a_text_longer_than_the_budget_is_a_batch_of_its_own(gated):
    batcher, gate, _ = gated
    request = batcher.submit([text(500), text(16)], JOB, 30)
    gate.free.set()
    assert [columns[0] for columns, _ in request.future.result(60)] == [500, 16]
    assert [batch.lengths.tolist() for batch in gate.batches[1:]] == [[500], [16]]


def test_texts_of_other_jobs_wait_for_a_batch_of_their_own(gated):
    batcher, gate, _ = gated
    one, other, again = (
        batcher.submit([text(16, n)], job, 30) for n, job in enumerate([JOB, Job(prune=parse("mass:0.9")), Job()])
    )
    gate.free.set()
    for n, request in enumerate((one, other, again)):
        assert request.future.result(60)[0][1].tolist() == [n]
    assert [batch.ids[:, 0].tolist() for batch in gate.batches[1:]] == [[0, 2], [1]]


def test_a_full_queue_refuses_all_of_a_request_and_keeps_none(gated):
    batcher, gate, _ = gated
    kept = batcher.submit([text(16)] * 15, JOB, 30)
    with pytest.raises(Refused, match="15 texts wait and 6 more would exceed the queue's 20") as refused:
        batcher.submit([text(16)] * 6, JOB, 30)
    assert refused.value.status == 429
    assert refused.value.headers["Retry-After"]
    assert batcher.waiting == 15
    batcher.submit([text(16)] * 5, JOB, 30)
    gate.free.set()
    assert len(kept.future.result(60)) == 15


def test_texts_that_wait_too_long_are_dropped_and_the_others_are_not(gated):
    batcher, gate, _ = gated
    late = batcher.submit([text(16)] * 3, JOB, 0.01)
    patient = batcher.submit([text(16)], JOB, 30)
    time.sleep(0.05)
    gate.free.set()
    with pytest.raises(Refused, match="not begun after") as refused:
        late.future.result(60)
    assert refused.value.status == 503
    assert len(patient.future.result(60)) == 1
    assert sum(len(batch.ids) for batch in gate.batches) == 2


def test_a_caller_can_give_up_what_still_waits(gated):
    batcher, gate, first = gated
    request = batcher.submit([text(16)] * 3, JOB, 30)
    assert batcher.give_up(request)
    assert not batcher.give_up(request)
    assert not batcher.give_up(first)  # it is being encoded
    assert batcher.waiting == 0
    gate.free.set()
    assert len(first.future.result(60)) == 1


def test_a_failing_batch_fails_its_callers_and_nobody_else(caplog):
    def worker(batch, job):
        if (batch.ids == 13).any():
            raise RuntimeError("out of memory, or what else")
        return lengths_as_vectors(batch, job)

    batcher = Batcher([worker], max_tokens=16, max_queue=20)
    bad = batcher.submit([text(16, 13), text(16, 1)], JOB, 30)
    with pytest.raises(Refused, match="The model failed") as refused:
        bad.future.result(60)
    assert refused.value.status == 424
    assert "out of memory" not in refused.value.message
    assert "out of memory" in caplog.text
    assert batcher.alive
    assert len(batcher.submit([text(16)], JOB, 30).future.result(60)) == 1
    batcher.close()


def test_closing_works_off_what_waits_and_takes_no_more(gated):
    batcher, gate, _ = gated
    waiting = [batcher.submit([text(100)], JOB, 30) for _ in range(5)]
    assert not batcher.close(0.01)
    with pytest.raises(Refused, match="shutting down") as refused:
        batcher.submit([text(16)], JOB, 30)
    assert refused.value.status == 503
    assert not batcher.alive
    gate.free.set()
    assert all(len(request.future.result(60)) == 1 for request in waiting)
    assert batcher.close(60)


def test_every_device_works():
    gates = [Gate(lengths_as_vectors) for _ in range(2)]
    batcher = Batcher(gates, max_tokens=16, max_queue=20)
    requests = [batcher.submit([text(16, n)], JOB, 30) for n in range(2)]
    assert all(gate.entered.wait(60) for gate in gates)  # both at once, or one would wait for ever
    for gate in gates:
        gate.free.set()
    assert sorted(request.future.result(60)[0][1][0] for request in requests) == [0, 1]
    assert batcher.close(60)
