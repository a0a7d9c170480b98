"""Debian's nginx as a reverse proxy before a gateway."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.gateway import free_port

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
AS_INSTALLED = "proxy_pass http://127.0.0.1:{port};"


@contextlib.contextmanager
def nginx(folder: Path, port: int, location: str) -> Iterator[int]:
    """Of the same user as the gateway: one process, which changes to no other user."""
    listens = free_port()
    conf = folder / "nginx.conf"
    temp = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf.write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n"
        f"events {{ worker_connections 64; }}\n"
        f"http {{ access_log off; {temp}\n"
        f"server {{ listen 127.0.0.1:{listens}; location / {{ {location.format(port=port)} }} }} }}\n"
    )
    assert NGINX is not None
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen([NGINX, "-c", str(conf), "-e", f"{folder}/error.log"], stderr=log)
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", listens), 5).close()
                break
            assert process.poll() is None, (folder / "nginx.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield listens
    finally:
        process.terminate()
        process.wait(20)
