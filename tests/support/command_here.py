"""A command line that runs in this process: faster than one of its own, where nothing depends on the process."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from sage_inference.cli.main import main
from tests.support.gateway import clean_environment


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


def sage_here(home: Path, *args: str, stdin: bytes = b"", **env: str) -> Ended:
    """``sage inference ARGS`` with pipes for its streams. None may end in an error that nobody foresaw."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="")
    environ = clean_environment(home, **env)
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - environ.keys():
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["inference", *args], program="sage")
    shown = []
    for stream in (out, err):
        stream.flush()
        buffer = stream.buffer
        assert isinstance(buffer, io.BytesIO)
        shown.append(buffer.getvalue().decode())
    assert "Traceback" not in "".join(shown)
    assert "this is a bug" not in "".join(shown)
    return Ended(code, *shown)
