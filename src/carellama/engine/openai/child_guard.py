"""Keeps a child process from outliving this program, however the program ends. Run as a script of its own:

    python -I child_guard.py        # standard input: the command as one line of JSON, and then nothing until its end

When the input ends, because the program closed it or was killed, the child and its whole process group are asked to
end, and after `GRACE` seconds made to. When the child ends, so do those that it left behind, and the guard with the
child's code. It imports nothing of the package.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE = 10.0  # seconds between asking and making
PR_SET_PDEATHSIG = 1  # of prctl(2)


def main() -> int:
    """Run the command until it ends or the input does; return its code, 128 + the signal's number if there was one."""
    command = json.loads(sys.stdin.buffer.readline())
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_guard)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: threading.Thread(target=_end, args=(child,), daemon=True).start())
    threading.Thread(target=_watch, args=(child,), daemon=True).start()
    code = child.wait()
    _signal(child, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _watch(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    _signal(child, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(GRACE)
    _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # there is no such group any more
        os.killpg(child.pid, number)


def _end_with_guard() -> None:
    """Linux only: have the child told when the guard itself is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
