"""``doctor`` finds what is wrong with a machine, and the command that mends it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sage_inference._version import __version__
from sage_inference.cli import table, terminal
from sage_inference.cli.main import main
from sage_inference.cli.schemas import ANSWERS
from sage_inference.config.paths import Paths
from sage_inference.daemon import pidfile
from sage_inference.daemon.service.plan import plan
from sage_inference.doctor import engines, gateway, machine, setup, sources, traces
from sage_inference.doctor.examination import CHECKS, examine
from sage_inference.doctor.facts import Facts
from sage_inference.doctor.finding import Check, Finding
from sage_inference.interpreter import command
from tests.cli.shape import mistakes
from tests.support.command import sage
from tests.support.gateway import clean_environment, free_port, running_gateway
from tests.support.ray_cluster import RECORDED, answer, ray_cluster, recorded
from tests.support.rogue import RogueEngine, ok
from tests.support.tls import Authority
from tests.support.wire import Caller


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("SAGE_"):
            monkeypatch.delenv(name)
    for name, value in clean_environment(tmp_path, XDG_RUNTIME_DIR=str(tmp_path), HOME=str(tmp_path)).items():
        monkeypatch.setenv(name, value)
    configure(tmp_path, server={"port": free_port()})
    return tmp_path


def configure(home: Path, **settings: Any) -> None:
    (home / "config.yaml").touch(0o600)
    (home / "config.yaml").write_text(json.dumps(settings))


def found(check: Check, *, verdict: str | None = None) -> list[Finding]:
    facts = Facts(Paths.resolve(), plan("--user", ["/bin/sage"]))
    seen = examine(facts, [check], within_s=20)
    assert all(each.hint for each in seen if each.verdict != "ok"), seen
    return [each for each in seen if verdict in (None, each.verdict)]


def one(check: Check, verdict: str) -> Finding:
    seen = found(check)
    assert [each.verdict for each in seen] == [verdict], seen
    return seen[0]


def test_a_sound_machine_is_one_line(home: Path) -> None:
    shown = sage(home, "doctor", XDG_RUNTIME_DIR=str(home), HOME=str(home))
    assert (shown.returncode, shown.stderr) == (0, "")
    [line] = shown.stdout.splitlines()
    assert line == f"all {len(found_in(home))} checks passed"


def found_in(home: Path) -> list[Finding]:
    return examine(Facts(Paths.resolve(), plan("--user", ["/bin/sage"])), within_s=20)


def test_the_document_has_all_checks_and_the_text_only_problems(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(home, server={"port": 70000})
    assert main(["inference", "doctor", "--json"], program="sage") == 1
    document = json.loads(capsys.readouterr().out)
    assert mistakes(document, ANSWERS["doctor"]) == []
    assert document["healthy"] is False
    names = {each["name"] for each in document["checks"]}
    # The others need the settings, which are broken.
    assert names == {"configuration", "folders", "gateway", "service", "gpus", "open files", "clock"}
    assert main(["inference", "doctor"], program="sage") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("fail  configuration  ")
    assert lines[-1] == f"{len(document['checks']) - 1} passed, 1 failure"
    assert main(["inference", "doctor", "-v"], program="sage-inference") == 1
    assert "ok    clock" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "environ", "text"),
    [
        ({"server": {"prot": 1}}, {}, "prot"),
        ({"api_keys": [{"key": "env:NOT_SET_ANYWHERE"}]}, {}, "NOT_SET_ANYWHERE is not set"),
        ({"api_keys": [{"key": "file:/no/such"}]}, {}, '"/no/such" is not readable'),
        ({"server": {"host": "0.0.0.0"}}, {}, "no api_keys"),
        ({"aliases": {"a": "a"}}, {}, "stands for itself"),
        ({"instances": [{"url": "https://127.0.0.1:1", "ca_file": "/no/such"}]}, {}, "ca_file"),
        ({}, {"SAGE_INFERENCE_SERVER__PORT": "x"}, "SERVER__PORT"),
    ],
)
def test_a_broken_configuration_is_a_failure(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: Mapping[str, Any],
    environ: Mapping[str, str],
    text: str,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    configure(home, **settings)
    finding = one(setup.CONFIGURATION, "fail")
    assert text in finding.text
    assert finding.hint


def test_a_certificate_that_has_expired_or_does_not_fit(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority = Authority(tmp_path_factory.mktemp("authority"), "root")
    good, expired = authority.issue(days=200), authority.issue(days=-1)
    for pair, key, verdict in (
        (good, good.key, "ok"),
        (expired, expired.key, "fail"),
        (good, expired.key, "fail"),
    ):
        configure(home, server={"tls_cert": str(pair.chain), "tls_key": str(key)})
        assert one(setup.CONFIGURATION, verdict).hint or verdict == "ok"
    good.key.chmod(0o600)
    configure(home, server={"tls_cert": str(home / "none.pem")})
    assert "none.pem" in one(setup.CONFIGURATION, "fail").text


def test_a_file_that_is_no_configuration_is_a_failure(home: Path) -> None:
    for content in (b"server: [", b"\xff\xfe\x00", b"- 1", b"x" * 100):
        (home / "config.yaml").write_bytes(content)
        assert one(setup.CONFIGURATION, "fail").hint
    (home / "config.yaml").unlink()
    assert "defaults" in one(setup.CONFIGURATION, "ok").text
    (home / "config.yaml").mkdir()
    assert one(setup.CONFIGURATION, "fail")


def test_keys_that_others_can_read_are_warned_of_and_never_shown(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_home = Path("/tmp") / f"sage-open-{os.getpid()}"  # pytest's folders are closed to others
    open_home.mkdir(mode=0o755)
    try:
        key = open_home / "a key"
        key.write_text("opensesame\n")
        key.chmod(0o644)
        configure(home, api_keys=[{"key": f"file:{key}"}], admin_key="tellnobody")
        [finding] = found(setup.KEYS)
        assert finding.hint == f"chmod 600 '{key}'"
        main(["inference", "doctor", "-v"], program="sage")
        main(["inference", "doctor", "--json"], program="sage")
        shown = capsys.readouterr()
        assert not [word for word in ("opensesame", "tellnobody") if word in shown.out + shown.err]
        key.chmod(0o640)
        assert one(setup.KEYS, "ok").text.startswith("every caller")
    finally:
        key.unlink()
        open_home.rmdir()
    configure(home, server={"host": "0.0.0.0", "insecure": True})
    assert "anyone" in one(setup.KEYS, "warn").text


def test_folders_that_cannot_be_used(home: Path) -> None:
    assert [each.verdict for each in found(setup.FOLDERS)] == ["ok", "ok"]
    (home / "logs").write_text("in the way")
    assert "is no folder" in found(setup.FOLDERS, verdict="fail")[0].text
    (home / "logs").unlink()
    (home / "state").mkdir()
    (home / "state").chmod(0o777)
    assert found(setup.FOLDERS, verdict="warn")[0].hint == f"chmod o-w {home / 'state'}"


def test_a_port_of_another_program_is_named_with_its_holder(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        configure(home, server={"port": port})
        finding = one(gateway.PORT, "fail")
        assert f"127.0.0.1:{port} is held by pid {os.getpid()}" in finding.text
        assert finding.hint
        assert f"kill {os.getpid()}" in finding.hint
    assert one(gateway.PORT, "ok").text.endswith("is free")
    configure(home, server={"host": "192.0.2.1", "port": port}, api_keys=["x"])
    assert "is not an address of this machine" in one(gateway.PORT, "fail").text


def test_a_gateway_that_starts_meanwhile_gets_its_port(home: Path) -> None:
    port = free_port()
    configure(home, server={"port": port})
    over = threading.Event()

    def keep_looking() -> None:
        while not over.is_set():
            found(gateway.PORT)

    looking = threading.Thread(target=keep_looking)
    looking.start()
    try:
        for _ in range(20):
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("127.0.0.1", port))
                sock.listen()
    finally:
        over.set()
        looking.join()


def test_a_dead_gateway_and_one_that_hangs(home: Path) -> None:
    assert one(gateway.GATEWAY, "ok").text.startswith("not running")
    state = home / "state"
    state.mkdir(mode=0o700)
    (state / "inference.json").write_text("{}")
    dead = one(gateway.GATEWAY, "warn")
    assert dead.hint == "sage inference stop removes them"


def test_a_running_gateway(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    dark = free_port()
    with running_gateway(f"http://127.0.0.1:{dark}", args=["--simulate"], await_instances=False) as running:
        for name, value in clean_environment(running.home, XDG_RUNTIME_DIR="/nowhere").items():
            monkeypatch.setenv(name, value)
        assert f"127.0.0.1:{running.port}" in one(gateway.GATEWAY, "ok").text
        assert one(gateway.PORT, "ok").text == f"127.0.0.1:{running.port} is the gateway's"
        assert "the gateway's limit" in one(machine.OPEN_FILES, "ok").text
        running.wait_instances("ejected", name=f"127.0.0.1:{dark}")
        [warning] = found(engines.ENGINES, verdict="warn")
        assert f"127.0.0.1:{dark} at http" in warning.text
        assert found(engines.ENGINES, verdict="ok")
        with monkeypatch.context() as upgraded:
            upgraded.setattr(gateway, "__version__", "99.0")
            older = one(gateway.GATEWAY, "warn")
            assert older.text == f"version {__version__} runs, and 99.0 is installed"
            assert older.hint
            assert "restart" in older.hint
        running.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert one(gateway.GATEWAY, "fail").hint == "sage inference stop --force ends it"
            assert time.monotonic() - began < 15
        finally:
            running.process.send_signal(signal.SIGCONT)


def test_an_instance_that_nobody_listens_for_is_a_warning(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = f"127.0.0.1:{server.getsockname()[1]}"
        gone = f"127.0.0.1:{free_port()}"
        urls = [
            {"url": there},
            {"url": gone},
            {"url": f"unix:{home}/none"},
            {"url": "http://no.such.invalid:1"},
        ]
        configure(home, instances=urls)
        warnings = found(engines.ENGINES, verdict="warn")
        assert len(warnings) == 3
        assert gone in warnings[0].text
        assert all(each.hint for each in warnings)
        assert found(engines.ENGINES, verdict="ok")[0].text == f"configured: {there}"


def test_programs_that_engines_need(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home / "bin"))
    configure(home, engines=[{"model": "m", "engine": "llama_server"}], managed={"tei": "/no/such"})
    texts = [each.text for each in found(engines.PROGRAMS_FOUND, verdict="fail")]
    assert ["/no/such" in texts[0], texts[1].startswith("m: llama-server is neither")] == [True, True]
    (home / "bin").mkdir()
    program = home / "bin" / "llama-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    configure(home, engines=[{"model": "m", "engine": "llama_server"}])
    assert "llama_server" in one(engines.PROGRAMS_FOUND, "ok").text


def hang(facts: Facts) -> Iterator[Finding]:
    threading.Event().wait()
    yield from ()


def crash(facts: Facts) -> Iterator[Finding]:
    raise RuntimeError("a\nbug\x1b[31m")
    yield from ()


def test_a_check_that_hangs_or_crashes_is_a_line_and_no_traceback(home: Path) -> None:
    facts = Facts(Paths.resolve(), plan("--user", ["/bin/sage"]))
    checks = [Check("gpus", hang), Check("bad", crash), setup.FOLDERS]
    seen = examine(facts, checks, within_s=0.5)
    assert (seen[0].verdict, seen[0].text) == ("warn", "no answer within 0.5 s")
    assert seen[0].hint
    assert (seen[1].verdict, "\x1b" in seen[1].text) == ("fail", False)
    assert [each.verdict for each in seen[2:]] == ["ok", "ok"]


LIMITED = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500)); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.fixture(scope="module")
def hampered(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, Any]]:
    """The findings by check where the programs of systemd hang, and few files may be open."""
    home = tmp_path_factory.mktemp("hampered")
    (home / "bin").mkdir()
    for name in ("systemctl", "loginctl", "timedatectl"):
        tool = home / "bin" / name
        tool.write_text("#!/bin/sh\nexec sleep 60\n")
        tool.chmod(0o755)
    (home / "systemd").mkdir()
    (home / "systemd" / "private").touch()
    unit = home / ".config" / "systemd" / "user" / "sage-inference.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")
    path = f"{home / 'bin'}:{os.environ['PATH']}"
    call = [sys.executable, "-c", LIMITED, *command("sage_inference", "inference", "doctor", "--json")]
    environ = clean_environment(home, XDG_RUNTIME_DIR=str(home), HOME=str(home), PATH=path)
    shown = subprocess.run(call, capture_output=True, text=True, check=False, env=environ, timeout=20)
    return {each["name"]: each for each in json.loads(shown.stdout)["checks"]}


def test_a_program_that_hangs_holds_up_nothing(hampered: Mapping[str, Mapping[str, Any]]) -> None:
    found = hampered["service"]
    assert (found["verdict"], found["hint"]) == ("warn", "systemctl --user status")


def test_a_low_limit_of_open_files(hampered: Mapping[str, Mapping[str, Any]]) -> None:
    found = hampered["open files"]
    assert (found["verdict"], "500 open files" in found["text"]) == ("fail", True)


def test_every_check_has_a_name_of_its_own() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize(
    "words", [("--jsn",), ("extra",), ("--config", ""), ("--config", "~no-such-user-x/f")]
)
def test_a_wrong_use_is_no_traceback(
    home: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inference", "doctor", *words], program="sage") in (1, 2)
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_text_fits_the_terminal(home: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from sage_inference.cli import doctor

    shown: list[str] = []
    monkeypatch.setattr(table, "width_of_terminal", lambda: width)
    monkeypatch.setattr(terminal, "say_made", shown.append)
    long = Finding("configuration", "fail", "a long sentence " * 12, "sage inference config edit " * 4)
    doctor._show([long, Finding("clock", "ok", "fine")], verbose=True)
    assert max(map(len, shown[0].splitlines())) <= width + 20  # colours


def test_the_pidfile_of_another_program_is_no_traceback(home: Path) -> None:
    (home / "state").mkdir(mode=0o700)
    for content in ("", "[]", '{"pid": "x"}', "\x00" * 10):
        (home / "state" / "inference.json").write_text(content)
        assert pidfile.read(home / "state" / "inference.json") is None
        assert found(gateway.GATEWAY)[0].verdict == "warn"


def test_a_collector_of_traces_is_asked_for_only_if_traces_are_sent(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        configure(home, tracing={"endpoint": endpoint})
        assert found(traces.TRACES) == []
        configure(home, tracing={"enabled": True, "endpoint": endpoint})
        assert endpoint in one(traces.TRACES, "ok").text
    finding = one(traces.TRACES, "warn")
    assert endpoint in finding.text
    assert finding.hint
    # A gateway runs: its own count.
    tracing = {"enabled": True, "endpoint": endpoint}
    with RogueEngine(ok("{}")) as engine:
        once = {"OTEL_BSP_SCHEDULE_DELAY": "10", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "0.5"}
        with running_gateway(engine.url, config={"tracing": tracing}, env=once) as running:
            facts = Facts(running.paths, plan("--user", ["/bin/sage"]))
            assert [each.verdict for each in examine(facts, [traces.TRACES], within_s=20)] == ["ok"]
            with Caller(running.port) as caller:
                assert caller.chat().reply().status == 200
            while not running.status()["tracing"]["dropped"]:
                time.sleep(0.02)
            facts = Facts(running.paths, plan("--user", ["/bin/sage"]))
            [finding] = examine(facts, [traces.TRACES], within_s=20)
            assert finding.verdict == "warn"
            assert "0 spans sent, 3 dropped" in finding.text


def test_each_source_is_looked_at_once(home: Path) -> None:
    with ray_cluster() as cluster:
        configure(home, sources=[{"ray": cluster.url}])
        label = f"ray {cluster.url} sage-engines"
        assert one(sources.SOURCES, "warn").text == f"{label} names no engine"
        cluster.add("http://127.0.0.1:9001")
        assert one(sources.SOURCES, "ok").text == f"{label} names 1 engine"
        cluster.head_log = (RECORDED / "2.60.0" / "gcs_server.out").read_bytes()
        assert "they end a minute after Ray's head ends, unless" in one(sources.SOURCES, "ok").text
        stray = cluster.add("http://10.1.2.3:9001")
        warned, well = found(sources.SOURCES)
        assert (warned.verdict, well.verdict) == ("warn", "ok")
        assert (
            f"replica sage-engines.{stray} names http://10.1.2.3:9001, which is not on its own" in warned.text
        )
        cluster.raw = answer(recorded("haproxy"))
        assert "RAY_SERVE_ENABLE_DIRECT_INGRESS=1" in one(sources.SOURCES, "warn").text
        cluster.raw = answer(b"", "401 Unauthorized")
        assert "it needs a token: set sources[].token" in one(sources.SOURCES, "warn").text
        cluster.raw, cluster.then = b"", "silent"
        assert "does not answer within 1.4 s" in one(sources.SOURCES, "warn").text
    assert "connection refused" in one(sources.SOURCES, "warn").text
    configure(home)
    assert found(sources.SOURCES) == []


def test_the_sources_of_a_running_gateway_are_as_it_sees_them(home: Path) -> None:
    with ray_cluster() as cluster:
        cluster.add("http://127.0.0.1:9001")
        with running_gateway(config={"sources": [{"ray": cluster.url, "interval_s": 0.2}]}) as running:

            def seen(verdict: str) -> str:
                deadline = time.monotonic() + 10
                while True:
                    facts = Facts(running.paths, plan("--user", ["/bin/sage"]))
                    [finding] = examine(facts, [sources.SOURCES], within_s=20)
                    if finding.verdict == verdict or time.monotonic() > deadline:
                        return finding.text

            assert seen("ok") == f"ray {cluster.url} sage-engines names 1 engine"
            cluster.raw = answer(b"", "500 No")
            said = seen("warn")
            assert said == f"ray {cluster.url} sage-engines is stale: the dashboard answers 500: nothing more"
