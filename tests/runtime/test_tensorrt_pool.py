"""Workers for threads: lent to one at a time, made when they are needed, released when they fail."""

import threading

import pytest

from edgecv_runtime.backends.tensorrt.pool import Pool
from edgecv_runtime.errors import Closed, ComputationError


class Factory:
    """Makes numbered workers, up to `memory` of them at a time."""

    def __init__(self, memory=100):
        self.memory, self.made, self.alive = memory, 0, set()

    def make(self):
        if len(self.alive) >= self.memory:
            raise ComputationError("out of memory")
        self.made += 1
        self.alive.add(self.made)
        return self.made

    def pool(self, limit):
        return Pool(self.make, self.alive.remove, limit, "model.onnx")


def lend_at_once(pool, count):
    """The workers that `count` threads hold at the same time, and the most that did."""
    held, most, lock, together = [], [0], threading.Lock(), threading.Semaphore(0)

    def work():
        with pool.lend() as worker:
            with lock:
                assert worker not in held  # nobody else has it
                held.append(worker)
                most[0] = max(most[0], len(held))
            together.acquire(timeout=0.2)
            with lock:
                held.remove(worker)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return most[0]


def test_one_thread_makes_one_worker():
    factory = Factory()
    pool = factory.pool(4)
    assert factory.made == 1  # at once: what cannot run fails when it is loaded
    for _ in range(5):
        with pool.lend() as worker:
            assert worker == 1
    assert factory.made == 1


@pytest.mark.parametrize(("threads", "limit", "most"), [(2, 4, 2), (4, 4, 4), (6, 3, 3), (3, 1, 1)])
def test_workers_are_as_many_as_run_at_once_up_to_the_limit(threads, limit, most):
    factory = Factory()
    pool = factory.pool(limit)
    assert lend_at_once(pool, threads) == factory.made == most
    pool.close()
    assert not factory.alive


def test_without_memory_for_one_more_threads_share_what_there_is(caplog):
    factory = Factory(memory=2)
    pool = factory.pool(4)
    assert lend_at_once(pool, 5) == 2
    assert "model.onnx: no more than 2 run at once: out of memory" in caplog.text


def test_without_memory_for_the_first_it_is_an_error():
    with pytest.raises(ComputationError, match="out of memory"):
        Factory(memory=0).pool(4)


def test_a_worker_that_failed_is_released_and_replaced():
    factory = Factory()
    pool = factory.pool(1)
    with pytest.raises(ComputationError, match="device-side assert"), pool.lend():
        raise ComputationError("device-side assert")
    assert not factory.alive
    with pool.lend() as worker:
        assert worker == 2


def test_a_release_that_fails_too_hides_nothing():
    """After a fault on the GPU every call of CUDA fails, those that free memory too."""

    def release(worker):
        raise ComputationError("cudaFree: an illegal memory access was encountered")

    pool = Pool(Factory().make, release, 1, "model.onnx")
    for _ in range(2):  # and the place of the worker is free again
        with pytest.raises(ComputationError, match="device-side assert"), pool.lend():
            raise ComputationError("device-side assert")


def test_closing_waits_for_who_is_at_work_and_lends_no_more():
    factory = Factory()
    pool = factory.pool(2)
    lent, leave, done = threading.Event(), threading.Event(), []

    def work():
        with pool.lend() as worker:
            lent.set()
            leave.wait(5)
            done.append(worker in factory.alive)

    thread = threading.Thread(target=work)
    thread.start()
    lent.wait(5)
    closing = threading.Thread(target=pool.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    leave.set()
    closing.join(5)
    thread.join(5)
    assert done == [True]
    assert not factory.alive
    pool.close()
    with pytest.raises(Closed, match="model.onnx is closed"), pool.lend():
        pass
