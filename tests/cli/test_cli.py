"""The command line as people and scripts meet it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.cli.main import main
from tests.support.command import sage
from tests.support.gateway import clean_environment


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("start",),
        ("stop",),
        ("restart",),
        ("reload",),
        ("status",),
        ("logs",),
        ("chat",),
        ("embed",),
        ("models",),
        ("ps",),
        ("load",),
        ("unload",),
        ("engine",),
        ("engine", "restart"),
        ("doctor",),
        ("service",),
        ("service", "install"),
        ("service", "uninstall"),
        ("service", "status"),
        ("unit",),
        ("config",),
        ("config", "show"),
        ("config", "get"),
        ("config", "set"),
        ("config", "unset"),
        ("config", "edit"),
        ("config", "path"),
        ("config", "validate"),
        ("config", "init"),
        ("config", "schema"),
    ],
    ids=" ".join,
)
def test_every_command_has_help_with_a_short_first_line(tmp_path: Path, args: tuple[str, ...]) -> None:
    shown = sage(tmp_path, *args, "--help")
    assert shown.returncode == 0
    first = next(line.strip() for line in shown.stdout.splitlines()[1:] if line.strip())
    assert len(first) < 60
    assert first.endswith(".")


def test_start_has_every_flag_that_is_promised(tmp_path: Path) -> None:
    shown = sage(tmp_path, "start", "--help").stdout
    for flag in [
        "--config",
        "--llm-model",
        "--embedding-model",
        "--llm-backend",
        "--embedding-backend",
        "--scheduling-policy",
        "--host",
        "--port",
        "--api-key",
        "--simulate",
        "--log-level",
        "--background",
        "--insecure",
        "--no-engines",
        "--wait",
    ]:
        assert flag in shown


MISSPELLED = "scheduling.slo.models.m.critcal.tpot_ms"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("strat",), 2, "did you mean start"),
        (("start", "--port", "x"), 2, "port"),
        (("start", "--nope"), 2, "nope"),
        (("start", "--scheduling-policy", "best", "--background"), 2, "least_loaded"),
        (("start", "--llm-backend", "ftp://x", "--background"), 2, "--llm-backend"),
        (("start", "--config", "/no/such.yaml", "--background"), 1, "no such file"),
        (("config", "set", "a.b", "c"), 2, "unknown key"),
        (("config", "get", "server.prot"), 2, "did you mean server.port?"),
        (("config", "unset", "prt"), 2, "unknown key prt"),
        (("config", "get", "aliases.x"), 1, "not set"),
        (("config", "set", MISSPELLED, "50"), 2, "did you mean scheduling.slo.models.m.critical.tpot_ms?"),
        (("config", "get", MISSPELLED), 2, "did you mean scheduling.slo.models.m.critical.tpot_ms?"),
        (("config", "unset", MISSPELLED), 2, "did you mean scheduling.slo.models.m.critical.tpot_ms?"),
        (("config", "set", "limits.max_n", "-5"), 2, " inference config set KEY -- VALUE"),
        (("config", "set", "limits.max_n", "-.5"), 2, " inference config set KEY -- VALUE"),
        (("config", "set", "llm_model", "-x7"), 2, " inference config set KEY -- VALUE"),
        (("config", "set", "llm_model", "--nope"), 2, " inference config set KEY -- VALUE"),
        (("config", "set", "llm_model", "-chat"), 2, "config set KEY -- VALUE"),
        (("config", "set", "limits.max_n", "--", "-5"), 1, "not -5"),
        (("config", "set", "limits.max_n", "5", "--jsno"), 2, " inference config set KEY -- VALUE"),
        (("config", "get", "-5"), 2, " inference config get -- KEY"),
        (("explain", "-5f0c"), 2, " inference explain -- REQUEST_ID"),
        (("replay", "-trace.csv"), 2, " inference replay -- FILE"),
        (("stop", "-5"), 2, " inference stop --help\n"),
        (("reload",), 3, "not running"),
        (("logs", "--level", "loud"), 2, "loud"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_and_a_status(
    tmp_path: Path, args: tuple[str, ...], code: int, says: str
) -> None:
    ended = sage(tmp_path, *args)
    assert ended.returncode == code
    assert says in ended.stderr
    # On a busy machine the command has said by now that it waits.
    shown = [line for line in ended.stderr.splitlines() if not line.startswith("waiting for ")]
    assert shown[0].startswith("error: ")
    assert ended.stdout == ""


def test_json_is_alone_on_stdout_and_has_schema_1(tmp_path: Path) -> None:
    for args in (
        ("status", "--json"),
        ("ps", "--json"),
        ("config", "--json"),
        ("config", "show", "--defaults", "--json"),
        ("config", "get", "server", "--json"),
    ):
        shown = sage(tmp_path, *args)
        assert json.loads(shown.stdout)["schema"] == 1, args
    failed = sage(tmp_path, "config", "get", "nope", "--json")
    assert set(json.loads(failed.stdout)["error"]) == {"code", "message", "hint"}


STATUS_KEYS = {
    "schema", "state", "version", "pid", "uptime_s", "address", "certificate", "tracing", "usage", "needs_key", "policy", "simulated", "discover", "requests",
    "slos", "embeddings", "instances", "engines", "sources", "warnings", "reason", "config_path", "log_path",
}  # fmt: skip


def test_the_status_document_has_all_its_keys_even_when_nothing_runs(tmp_path: Path) -> None:
    found = json.loads(sage(tmp_path, "status", "--json").stdout)
    assert set(found) == STATUS_KEYS
    assert found["state"] == "stopped"


def test_secrets_are_masked_wherever_the_configuration_is_shown(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("api_keys: [sk-secret]\nadmin_key: sk-secret\n")
    for args in (
        ("config",),
        ("config", "--json"),
        ("config", "show", "-o", "yaml"),
        ("config", "get", "admin_key"),
    ):
        shown = sage(tmp_path, *args)
        assert shown.returncode == 0
        assert "sk-secret" not in shown.stdout + shown.stderr, args


def test_edit_keeps_the_old_file_when_the_new_one_is_broken(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("llm_model: a\n")
    broken = sage(tmp_path, "config", "edit", EDITOR="sh -c 'echo nope: 1 > $0'", VISUAL="")
    assert broken.returncode == 1
    assert (tmp_path / "config.yaml").read_text() == "llm_model: a\n"
    good = sage(tmp_path, "config", "edit", EDITOR="sh -c 'echo llm_model: b > $0'", VISUAL="")
    assert good.returncode == 0
    assert (tmp_path / "config.yaml").read_text() == "llm_model: b\n"


def test_logs_survive_junk_rotation_and_levels(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    line = '{"time":"2026-01-01T00:00:00.000Z","level":"%s","message":"%s"}\n'
    (logs / "inference.log.1").write_text(line % ("info", "older"))
    (logs / "inference.log").write_text(line % ("error", "newer") + "not json\n" + line % ("debug", "least"))
    shown = sage(tmp_path, "logs").stdout.splitlines()
    assert [text.split(" ")[-1] for text in shown] == ["older", "newer", "json", "least"]
    assert sage(tmp_path, "logs", "--level", "warning").stdout.splitlines() == [
        "2026-01-01 00:00:00 error newer"
    ]
    assert sage(tmp_path, "logs", "-n", "1").stdout.split(" ")[-1] == "least\n"


def test_all_lines_of_the_log_can_be_asked_for(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "inference.log").write_text('{"message":"one"}\n')
    assert sage(tmp_path, "logs", "-n", str(10**21)).stdout == "one\n"


def test_a_logged_value_cannot_forge_a_line_or_steer_the_terminal(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "inference.log").write_text(json.dumps({"message": "a\x1b[2J\nerror b", "exception": "x\n\x1b"}))
    with (logs / "inference.log").open("a") as file:
        file.write("\n")
    assert sage(tmp_path, "logs").stdout == "a\\x1b[2J\\nerror b\n  x\n  \\x1b\n"


def test_logs_follow_through_a_rotation(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    current = logs / "inference.log"
    current.write_text('{"message":"one"}\n')
    command = [sys.executable, "-m", "sage_inference", "inference", "logs", "--follow", "--json"]
    with subprocess.Popen(
        command, env=clean_environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        assert "one" in follower.stdout.readline()
        with current.open("a") as file:
            file.write('{"message":"two"}\n')
        assert "two" in follower.stdout.readline()
        current.rename(logs / "inference.log.1")
        current.write_text('{"message":"three"}\n')
        assert "three" in follower.stdout.readline()
        follower.terminate()


WORDS = st.sampled_from(
    ["inference", "start", "status", "stop", "config", "set", "get", "show", "unset", "validate", "logs", "reload",
     "chat", "embed", "models", "-", "--set", "seed=1", "--system", "--model", "--watch=1", "5",
     "--json", "--port", "0", "-1", "--config", "--help", "--output", "yaml", "--key", "llm_model", "scheduling.policy",
     "--host", "--simulate", "--", "-", "", "\x00", "\ud800", "--llm-backend", "http://[", "a" * 300]
)  # fmt: skip


YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["server", "port", "instances", "url", "api_keys", "aliases"])
            | st.text(max_size=5),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
CONFIGS = st.none() | st.text(max_size=80) | YAML.map(json.dumps)
START = st.sampled_from(
    ["--port", "--host", "--api-key", "--llm-backend", "--embedding-backend", "--scheduling-policy", "--log-level",
     "--config", "--insecure", "--simulate", "--background", "--llm-model", "8000", "127.0.0.1", "env:HOME", "file:", "::1"]
)  # fmt: skip


def status_of(args: list[str], home: Path, config: str | None) -> int:
    """The exit status of a command line that runs in this process; none may end in an error nobody foresaw."""
    if config is not None:
        (home / "config.yaml").write_text(config, encoding="utf-8", errors="replace")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGE_INFERENCE_HOME", str(home))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(args, program="sage")
    said = out.getvalue() + err.getvalue()
    assert "Traceback" not in said
    assert "this is a bug" not in said
    return code


@settings(max_examples=150, deadline=None)
@given(args=st.lists(WORDS | st.text(max_size=12), max_size=6), config=CONFIGS)
def test_no_command_line_and_no_file_end_in_a_traceback(
    args: list[str], config: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if {"start", "restart", "edit", "--follow", "-f", "--watch", "--watch=1", "-w"} & set(
        args
    ):  # these would really do something
        args = [*args, "--nope"]
    assert status_of(args, tmp_path_factory.mktemp("fuzz"), config) in (0, 1, 2, 3, 4)


@settings(max_examples=100, deadline=None)
@given(options=st.lists(START | st.text(max_size=12), max_size=6))
def test_no_options_of_start_end_in_a_traceback(
    options: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With a broken file, so that nothing is started."""
    args = ["inference", "start", *(word for word in options if word not in ("--help", "-h", "--version"))]
    assert status_of(args, tmp_path_factory.mktemp("fuzz"), "nope: 1") in (1, 2)


@pytest.mark.parametrize(
    "args",
    [
        [b"\xff\xfe"],
        [b"config", b"get", b"\xff"],
        [b"config", b"set", b"llm_model", b"\xff"],
        [b"status", b"--config", b"\xff\n"],
        [b"config", b"--config", b"/dev/zero"],
        [b"config", b"--config", b"/"],
        [b"logs", b"-n", b"-1"],
    ],
)
def test_bytes_that_are_no_text_end_in_an_error(tmp_path: Path, args: list[bytes]) -> None:
    command = [os.fsencode(sys.executable), b"-m", b"sage_inference", b"inference", *args]
    ended = subprocess.run(command, env=clean_environment(tmp_path), capture_output=True, check=False)
    assert ended.returncode in (1, 2)
    assert ended.stderr.startswith(b"error: ")
    assert b"this is a bug" not in ended.stderr


@pytest.mark.parametrize("command", ["status", "ps", "--help"])
def test_status_ps_and_help_load_neither_the_web_stack_nor_rich(tmp_path: Path, command: str) -> None:
    code = (
        f"import sys; from sage_inference.cli.main import main; main(['inference', '{command}'], program='sage');"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'uvicorn', 'starlette', 'httpx', 'httptools', 'uvloop', 'rich', 'msgspec', 'psutil'}))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["status", "ps"])
def test_status_takes_a_moment_only(tmp_path: Path, command: str) -> None:
    """A guard against seconds, not a measurement: a busy machine must pass it."""
    times = []
    for _ in range(3):
        began = time.monotonic()
        sage(tmp_path, command)
        times.append(time.monotonic() - began)
    assert statistics.median(times) < 2
