"""Signals wait for the end of a step."""

from __future__ import annotations

import signal
import threading

import pytest

from funnelcast.interrupt import Interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_raises(number: signal.Signals) -> None:
    former = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        pending = [interrupt.pending]
        signal.raise_signal(number)
        pending.append(interrupt.pending)
        assert pending == [False, True]
        signal.raise_signal(number)
    assert signal.getsignal(number) is former


def test_outside_the_main_thread_it_changes_nothing() -> None:
    former, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with Interrupt() as interrupt:
            seen.append((interrupt.pending, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, former)]
