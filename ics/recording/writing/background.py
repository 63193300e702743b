"""A thread that works beside the training loop, and what must hold whatever happens to the loop or the process."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable


class Background:
    """Runs `work` in a thread of its own whenever it is woken.

    `work` is called with no arguments and does all there is to do. It is woken, not fed: what is to be done lies with
    the caller, so that a wake-up that is interrupted (Ctrl-C) or comes twice neither loses nor repeats anything.

    The thread is a daemon, because the interpreter waits for others before it runs the exit handlers that would end
    them; an exit handler of our own waits for the work instead. Where no thread can be started (an interpreter that
    is shutting down), `work` runs in the caller. A forked process has no such thread: who is forked must not call.

    Args:
        work: must not raise; what it raises all the same ends the wait of whoever waits, and is raised there.
        name: name of the thread.
        prepare: called first in the thread, if there is one.
    """

    def __init__(self, work: Callable[[], None], *, name: str, prepare: Callable[[], None] = lambda: None) -> None:
        self._work = work
        self._prepare = prepare
        self._name = name
        self._changed = threading.Condition()
        self._wakes = 0  # how often it was woken, and how many of these calls are worked off
        self._worked_off = 0
        self._thread: threading.Thread | None = None
        self._working = threading.Lock()
        self._stopping = False
        self._error: BaseException | None = None
        self._process = os.getpid()

    @property
    def foreign(self) -> bool:
        """Whether this is a forked process: the thread stayed behind, and locks may be held for ever."""
        return os.getpid() != self._process

    def wake(self) -> None:
        """Have everything done that there is to do by now; returns at once."""
        with self._changed:
            self._wakes += 1
            self._stopping = False
            self._changed.notify_all()
            if self._alive or self._start():
                return
        self._work_off(self._wakes)

    def wait(self, until: Callable[[], bool] = lambda: False) -> None:
        """Wait until all that there was to do is done, or `until()` holds (asked whenever `progressed`)."""
        self.wake()
        with self._changed:
            target = self._wakes
            self._changed.wait_for(lambda: self._worked_off >= target or until())
            error, self._error = self._error, None
        if error is not None:
            raise error

    def progressed(self) -> None:
        """Let those who wait ask again; called by `work`."""
        with self._changed:
            self._changed.notify_all()

    def stop(self) -> None:
        """Wait until everything is done and end the thread; a later `wake` starts another."""
        self.wait()
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        atexit.unregister(self._at_exit)

    @property
    def _alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> bool:
        atexit.unregister(self._at_exit)
        atexit.register(self._at_exit)
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
        return self._thread is not None

    def _at_exit(self) -> None:
        if not self.foreign:
            self.wait()

    def _run(self) -> None:
        self._prepare()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wakes > self._worked_off or self._stopping)
                if self._wakes == self._worked_off:
                    self._thread = None
                    return
                target = self._wakes
            self._work_off(target)

    def _work_off(self, target: int) -> None:
        try:
            with self._working:  # a start that was interrupted may leave two threads
                self._work()
        except BaseException as error:  # whoever waits must not wait for ever
            self._error = error
        with self._changed:
            self._worked_off = target
            self._changed.notify_all()
