"""A file belongs to one live run at a time."""

import os
import signal
import time

import pytest

from skdvl import estimate_values
from skdvl.estimation.checkpoint import Checkpoint
from skdvl.sampling import Stratified


def test_a_second_live_process_is_refused_until_the_first_is_dead(noisy_game, tmp_path):
    slow = noisy_game(10, log=tmp_path / "log", seconds=0.05)
    options = {"method": "stratified", "max_evals": 500, "random_state": 0}
    options["checkpoint"] = tmp_path / "runs"
    pid = os.fork()
    if pid == 0:
        estimate_values(slow, **options)
        os._exit(1)
    while not slow.evaluated():
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="Another live process"):
        estimate_values(noisy_game(10), **options)
    estimate_values(noisy_game(10), **options | {"random_state": 1})
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert estimate_values(noisy_game(10), **options).n_evals == 500


def test_the_same_process_has_one_run_at_a_time(tmp_path):
    with Checkpoint(tmp_path, "one", Stratified()):
        with (
            pytest.raises(RuntimeError, match="Another live process"),
            Checkpoint(tmp_path, "one", Stratified()),
        ):
            pass
        with Checkpoint(tmp_path, "two", Stratified()):
            pass
    with Checkpoint(tmp_path, "one", Stratified()):
        pass


def test_workers_that_outlive_a_killed_run_do_not_keep_its_lock(in_child, tmp_path):
    orphan = tmp_path / "orphan"

    def die():
        with Checkpoint(tmp_path, "one", Stratified()):
            if os.fork() == 0:  # as the workers of the multiprocessing backend
                orphan.write_text(str(os.getpid()))
                time.sleep(60)
                os._exit(0)
            while not orphan.exists() or not orphan.read_text():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == -signal.SIGKILL
    try:
        with Checkpoint(tmp_path, "one", Stratified()):
            pass
    finally:
        os.kill(int(orphan.read_text()), signal.SIGKILL)
