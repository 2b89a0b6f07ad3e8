import os
import signal
import threading

import pytest

from r1jax.workdir.stop import Stopped, graceful_stop

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_asks_second_quits(number, capsys):
    before = signal.getsignal(number)
    with graceful_stop() as stop:
        stop.check()
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert number.name in capsys.readouterr().err
        with pytest.raises(Stopped):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 1)  # a bytecode boundary at the latest
    assert signal.getsignal(number) is before
    with graceful_stop() as stop:
        assert not stop.requested, "the request of an earlier run is still there"


def test_a_signal_in_an_inner_context_is_seen_in_the_outer_one(capsys):
    with graceful_stop() as outer:
        with graceful_stop() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner.requested
        assert outer.requested
        with pytest.raises(KeyboardInterrupt):  # the outer handlers are still there, and this is the second signal
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 1)


def test_handlers_are_back_after_an_error():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ZeroDivisionError), graceful_stop():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_in_another_thread_nothing_is_installed():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with graceful_stop() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
