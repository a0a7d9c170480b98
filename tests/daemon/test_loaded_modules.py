"""The packages that a gateway's process goes without: each takes a mebibyte of its memory."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.support.gateway import clean_environment, free_port

HEAVY = ("rich", "pygments", "psutil", "sqlite3", "opentelemetry", "pydantic")
START = f"""
import atexit, sys
from sage_inference._entry import main
atexit.register(lambda: print("loaded", sorted({{*{HEAVY}, "httpx"}} & set(sys.modules))))
sys.exit(main())
"""


def test_a_gateway_before_a_configured_engine_loads_no_heavy_package(tmp_path: Path) -> None:
    engine = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "config.yaml").write_text(f"instances: [{{url: '{engine}', kind: llm}}]\n")
    arguments = ["inference", "start", "--config", str(tmp_path / "config.yaml"), "--port", str(free_port())]
    with subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        env=clean_environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        read = ""
        while "gateway running" not in read:
            line = process.stdout.readline()
            assert line, read
            read += line
        process.send_signal(signal.SIGTERM)
        read += process.stdout.read()
    assert "loaded ['httpx']\n" in read, read


def test_the_background_process_chooses_its_imports_before_httpx_comes() -> None:
    code = "import sys, sage_inference.daemon.__main__; print('httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
