"""The entry of the installed programs: quiet on Ctrl-C from the first import to the last moment."""

from __future__ import annotations

import signal


def main() -> int:
    """Run the command line. A Ctrl-C while modules are imported ends the process as the signal does."""
    # A handler that is not Python's own stays, and so does SIG_IGN.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from sage_inference import lean_imports

    lean_imports.leave_out()
    from sage_inference.cli.main import main as run

    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:
        return 130
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
