"""The search for engines on this machine: command lines, sockets, and the answers of real servers."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sage_inference.engines.search import Findings, search
from sage_inference.engines.search.listeners import Listener, listeners
from sage_inference.engines.search.processes import look_of, stated_port
from tests.support.gateway import free_port, running_gateway
from tests.support.listing import ListingEngine
from tests.support.other_user import NOBODY
from tests.support.simulators import simulated_engine

AS_ENGINE = """import sys
from sage_inference.simulator.__main__ import main
sys.argv = [sys.argv[0], "vllm", *sys.argv[2:]]
main()
"""


def found(*ports: int, own: tuple[int, ...] = ()) -> Findings:
    return asyncio.run(search(own, ports, 1.0))


def urls(findings: Findings) -> list[str]:
    return [each.url for each in findings.engines]


@contextmanager
def process_like_vllm(home: Path, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """A simulator whose command line is ``vllm serve ARGS``, ready to serve."""
    script = home / "vllm"
    script.write_text(AS_ENGINE)
    process = subprocess.Popen(
        [sys.executable, str(script), "serve", *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


# Command lines


@pytest.mark.parametrize(
    ("line", "engine", "port"),
    [
        ("vllm serve Qwen/Qwen2.5-7B-Instruct", "vLLM", 8000),
        ("/opt/venv/bin/python3.12 /opt/venv/bin/vllm serve m --port 8001", "vLLM", 8001),
        ("python -u -m vllm.entrypoints.openai.api_server --model m --port=8005", "vLLM", 8005),
        ("text-embeddings-router --model-id BAAI/bge-m3 -p 8090", "TEI", 8090),
        ("/usr/local/bin/text-embeddings-router --model-id BAAI/bge-m3", "TEI", 3000),
        ("infinity_emb v2 --model-id m", "infinity", 7997),
        ("/home/u/llama.cpp/build/bin/llama-server -m a.gguf --port 9001", "llama-server", 9001),
        ("/usr/local/bin/ollama serve", "Ollama", 11434),
        ("python3 -m sglang.launch_server --model-path m", "SGLang", 30000),
    ],
)
def test_the_command_line_of_an_engine_is_recognized(line: str, engine: str, port: int) -> None:
    argv = line.split()
    look = look_of(argv)
    assert look is not None
    assert (look.engine, stated_port(argv, look.port)) == (engine, port)


@pytest.mark.parametrize(
    "line",
    [
        "vllm bench serve --model m",
        "vllm --version",
        "vim vllm serve",
        "grep -r vllm serve",
        "bash -c vllm",
        "ssh gpu7 vllm serve m",
        "ollama run llama3",
        "infinity_emb --help",
        "python",
        "python -m http.server 8000",
        "-",
    ],
)
def test_other_command_lines_are_not(line: str) -> None:
    assert look_of(line.split()) is None


@pytest.mark.parametrize("given", ["--port 0", "--port 70000", "--port abc", "--port", "--port=", "-p ²"])
def test_a_port_that_is_none_leaves_the_default(given: str) -> None:
    assert stated_port(["vllm", "serve", "m", *given.split()], 8000) == 8000


# Sockets


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_a_listening_socket_is_seen_with_its_user(host: str, family: int) -> None:
    with socket.socket(family) as sock:
        sock.bind((host, free_port()))
        mine = Listener(host, sock.getsockname()[1], os.getuid())
        assert mine not in (listeners() or []), "a bound socket does not listen yet"
        sock.listen()
        there = listeners()
    assert there is None or mine in there


def test_a_table_with_odd_lines_is_read(tmp_path: Path) -> None:
    table = tmp_path / "tcp"
    table.write_text(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1002        0 51 1\n"
        "   1: 0100007F:1F42 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1002        0 52 1\n"
        "   2: nonsense\n"
        "   3: 00000000:1F43 00000000:0000 0A\n"
    )
    assert listeners([(str(table), socket.AF_INET)]) == [Listener("127.0.0.1", 8001, 1002)]
    assert listeners([(str(tmp_path / "none"), socket.AF_INET)]) is None


@pytest.mark.parametrize(
    ("only_v6", "reached_at"), [(False, "127.0.0.1"), (True, "::1")], ids=["both families", "IPv6 only"]
)
def test_a_socket_for_all_ipv6_addresses_is_reached_where_it_listens(only_v6: bool, reached_at: str) -> None:
    with socket.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        sock.bind(("::", 0))
        sock.listen()
        port = sock.getsockname()[1]
        (mine,) = (each for each in listeners() or [Listener("::", port)] if each.port == port)
        assert mine.host == "::"
        at = mine.reached_at()
        assert at == reached_at
        socket.create_connection((at, port), 5).close()


def test_servers_of_other_people_are_not_trusted() -> None:
    me = os.getuid()
    assert all(Listener("127.0.0.1", 1, uid).is_trusted for uid in (None, me, 0, 998))
    others = {1000, 1001, NOBODY} - {me}
    assert not any(Listener("127.0.0.1", 1, uid).is_trusted for uid in others)


# Servers


def test_engines_at_known_ports_are_found_and_other_servers_are_not() -> None:
    silent = socket.create_server(("127.0.0.1", free_port()))
    with (
        silent,
        simulated_engine("vllm") as chat,
        simulated_engine("tei") as texts,
        ListingEngine() as nothing,  # answers, but lists no model
        running_gateway(chat.url, config={"discover": False}) as gateway,
    ):
        known = (chat.port, texts.port, gateway.port, silent.getsockname()[1], free_port())
        findings = found(*known)
        assert {chat.url, texts.url} <= set(urls(findings))
        assert not {gateway.url, f"http://127.0.0.1:{known[3]}"} & set(urls(findings))
        port = int(nothing.url.rpartition(":")[2])
        assert any("names no model" in note for note in found(port).notes)
        assert chat.url not in urls(found(chat.port, own=(chat.port,)))


def test_an_engine_that_wants_a_key_is_reported() -> None:
    with simulated_engine("vllm", "--api-key", "secret-1") as engine:
        findings = found(engine.port)
    assert engine.url not in urls(findings)
    (note,) = (each for each in findings.notes if engine.url in each)
    assert "api_key" in note
    assert "secret-1" not in note


def test_an_engine_is_found_by_its_process(tmp_path: Path) -> None:
    port = free_port()
    with process_like_vllm(tmp_path, "--port", str(port)):
        # The simulator's second port answers no questions of this kind; it must not be an engine of its own.
        assert [url for url in urls(found()) if url == f"http://127.0.0.1:{port}"]
        assert not [url for url in urls(found(own=(port,))) if url == f"http://127.0.0.1:{port}"]


def test_a_process_that_does_not_listen_yet_is_reported(tmp_path: Path) -> None:
    script = tmp_path / "vllm"
    script.write_text("import sys\nprint(flush=True)\nsys.stdin.read()\n")
    with subprocess.Popen(
        [sys.executable, str(script), "serve", "m", "--port", str(free_port())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        notes = found().notes
        process.kill()
    assert any(f"vLLM (pid {process.pid}) does not listen yet" in note for note in notes)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_server_of_another_person_is_named_and_not_asked() -> None:
    port = free_port()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(NOBODY)
        sock = socket.create_server(("127.0.0.1", port))
        os.write(writer, b".")
        sock.accept()  # a question would end the process
        os._exit(1)
    try:
        os.read(reader, 1)
        notes = found(port).notes
        assert any(f"uid {NOBODY}" in note and f"http://127.0.0.1:{port}" in note for note in notes)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
