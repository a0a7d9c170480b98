"""Makes the kernel refuse one system call of a program, so that a missing feature can be had anywhere."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

_FLOCK = {"x86_64": 73, "aarch64": 32}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER_MODE = 38, 22, 2


def refuse_flock(error: int) -> None:
    """From now on ``flock`` fails with ``error`` in this process and in those that it starts."""
    instructions = [
        (0x20, 0, 0, 0),  # load the number of the system call
        (0x15, 0, 1, _FLOCK[platform.machine()]),  # if it is flock ...
        (0x06, 0, 0, 0x00050000 | error),  # ... return the error
        (0x06, 0, 0, 0x7FFF0000),  # allow all others
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
    program = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value, argument in (
        (_PR_SET_NO_NEW_PRIVS, 1, None),
        (_PR_SET_SECCOMP, _FILTER_MODE, ctypes.create_string_buffer(program)),
    ):
        if libc.prctl(option, value, argument, 0, 0):
            raise OSError(ctypes.get_errno(), "no seccomp filter here")


if __name__ == "__main__":
    refuse_flock(int(sys.argv[1]))
    os.execv(sys.executable, [sys.executable, "-m", "sage_inference", "inference", *sys.argv[2:]])
