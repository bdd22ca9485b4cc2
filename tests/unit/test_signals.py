"""Signals while others are held: which end a run, when, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from apppot import process
from apppot.errors import AppPotError


def state() -> tuple[set[int], list[object]]:
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
    mask = set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    return mask, [signal.getsignal(number) for number in numbers]


def test_one_that_has_waited_ends_long_work() -> None:
    with process.signals_held():
        before = state()
        signal.raise_signal(signal.SIGTERM)
        with (
            pytest.raises(AppPotError, match="ended by SIGTERM early") as caught,
            process.signals_heeded("early"),
        ):
            time.sleep(100)
        assert caught.value.status == 128 + signal.SIGTERM
        assert state() == before


def test_one_that_comes_ends_it_at_once() -> None:
    with process.signals_held():
        began = time.monotonic()
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with (
            pytest.raises(AppPotError, match="ended by SIGINT"),
            process.signals_heeded("early"),
        ):
            time.sleep(100)
        assert time.monotonic() - began < 1


def test_others_wait_on() -> None:
    with process.signals_held():
        with process.signals_heeded("early"):
            signal.raise_signal(signal.SIGUSR1)
        assert signal.sigtimedwait([signal.SIGUSR1], 0)


@pytest.mark.parametrize("heeded", [False, True])
def test_ignored_signals_end_nothing(heeded: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with process.signals_held():
            signal.raise_signal(signal.SIGHUP)
            process.check_signals("")
            if heeded:
                with process.signals_heeded(""):
                    signal.raise_signal(signal.SIGHUP)
            signal.sigtimedwait([signal.SIGHUP], 0)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_change_nothing() -> None:
    seen = []

    def work() -> None:
        with process.signals_heeded(""):
            seen.append(state()[1])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [state()[1]]
