"""A thread that works beside the training loop, safe against interrupts, forks and the end of the process."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable


class Background:
    """Runs `work` in a separate thread whenever it is woken.

    `work` takes no arguments and does everything there is to do. A wake-up carries no data; the caller keeps what is
    to be done. So a wake-up that is interrupted (Ctrl-C) or comes twice neither loses nor repeats anything.

    The thread is a daemon: for other threads the interpreter waits before it runs the exit handlers that would end
    them. An exit handler of our own waits for the work instead. If no thread can be started (the interpreter is
    shutting down), `work` runs in the caller. A forked process has no such thread and must not call these methods.

    Args:
        work: must not raise. If it does, `wait` ends and raises that error.
        name: name of the thread.
        prepare: called first in the thread, if there is one.
    """

    def __init__(self, work: Callable[[], None], *, name: str, prepare: Callable[[], None] = lambda: None) -> None:
        self._work = work
        self._prepare = prepare
        self._name = name
        self._changed = threading.Condition()
        # Counters rather than a flag: a flag cleared after the work would also clear a wake-up that came during it.
        self._wakes = 0
        self._worked_off = 0
        self._thread: threading.Thread | None = None
        self._working = threading.Lock()
        self._stopping = False
        self._error: BaseException | None = None
        self._process = os.getpid()

    @property
    def foreign(self) -> bool:
        """Whether this is a forked process: it has no such thread, and locks may be held for ever."""
        return os.getpid() != self._process

    def wake(self) -> None:
        """Have everything done that there is to do by now, and return at once."""
        with self._changed:
            self._wakes += 1
            self._stopping = False
            self._changed.notify_all()
            if self._alive or self._start():
                return
        self._work_off(self._wakes)

    def wait(self, until: Callable[[], bool] = lambda: False) -> None:
        """Wait until everything there was to do is done, or `until()` holds (asked after every `progressed`)."""
        self.wake()  # a wake-up that was interrupted may have left work that nobody does
        with self._changed:
            target = self._wakes
            self._changed.wait_for(lambda: self._worked_off >= target or until())
            error, self._error = self._error, None
        if error is not None:
            raise error

    def progressed(self) -> None:
        """Make waiting callers check their condition again; called by `work`."""
        with self._changed:
            self._changed.notify_all()

    def stop(self) -> None:
        """Wait until everything is done, then end the thread; a later `wake` starts another."""
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
        atexit.unregister(self._at_exit)  # one handler, however many threads are started one after another
        atexit.register(self._at_exit)
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
        return self._thread is not None

    def _at_exit(self) -> None:
        if not self.foreign:  # a fork inherits the handler: it would write the rows a second time, or hang on a lock
            self.wait()

    def _run(self) -> None:
        self._prepare()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wakes > self._worked_off or self._stopping)
                if self._wakes == self._worked_off:
                    # Under the lock: a wake-up from now on must not count on a thread that is about to end.
                    self._thread = None
                    return
                target = self._wakes  # read before the work, so that a wake-up during it causes another round
            self._work_off(target)

    def _work_off(self, target: int) -> None:
        try:
            with self._working:  # a start that was interrupted may leave two threads
                self._work()
        except BaseException as error:  # kept, so that `wait` returns instead of waiting for ever
            self._error = error
        with self._changed:
            self._worked_off = target
            self._changed.notify_all()
