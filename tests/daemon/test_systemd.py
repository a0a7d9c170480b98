"""In the foreground, as a supervisor runs it: readiness, reload, watchdog and stop on its notify socket."""

from __future__ import annotations

import signal

from tests.support.gateway import running_gateway


def test_a_supervisor_is_told_of_readiness_reload_life_and_stop() -> None:
    with running_gateway(env={"WATCHDOG_USEC": "2000000"}) as gateway:  # READY=1 was awaited
        gateway.wait_notified("WATCHDOG=1")
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_notified("RELOADING=1")
        gateway.wait_notified("READY=1")
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait_notified("STOPPING=1")
        assert gateway.process.wait(20) == 0
