"""Become a command that the kernel ends when whoever started it ends, even by SIGKILL: nothing is left running.

`python tether.py PARENT SIGNAL USER COMMAND…`. PARENT is whose end counts: a process id, or `leader`, the session's, or
`-`, whoever is the parent once this has begun (an end before that is not noticed). USER `-` means the current one. Run
as a script, by path: it imports next to nothing, for it stands in front of every process of the stack (about 20 ms
each).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys

# From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1
LEADER = "leader"


def become(parent: str, signal_name: str, user: str, command: list[str]) -> None:
    """Replace this process by `command`, run as `user`, which gets the signal when its parent ends."""
    expected = _expected(parent)
    if user != "-":
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    # After changing the user, which would clear it.
    number = signal.Signals[f"SIG{signal_name}"]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != expected:
        sys.exit("The process that started this one has already ended.")
    os.execvp(command[0], command)


def _expected(parent: str) -> int:
    """The id of the process that must be the parent, also if it has ended."""
    if parent == LEADER:
        return os.getsid(0)
    return os.getppid() if parent == "-" else int(parent)


if __name__ == "__main__":
    become(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
