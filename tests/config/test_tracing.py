"""The settings of tracing: mistakes are named, and nothing is loaded to find them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sage_inference.config.check import check
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import load
from sage_inference.config.settings import TracingSettings
from sage_inference.config.tracing import endpoint_of, shown
from sage_inference.config.warnings import warnings_of
from tests.support.gateway import clean_environment


def mistake(tmp_path: Path, text: str, **environ: str) -> str:
    file = tmp_path / "config.yaml"
    file.write_text("tracing:\n" + "".join(f"  {line}\n" for line in text.splitlines()))
    with pytest.raises(ConfigError) as found:
        check(load(file, environ), environ)
    return str(found.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("endpoint: localhost:4318", "http://host:port"),
        ("endpoint: ftp://h:1", "http://host:port"),
        ("endpoint: http://h:99999", "port"),
        ("endpoint: http://me:pass-word@h:1", "must not hold user:password@"),
        ("sample: 2", "tracing.sample"),
        ("sample: -0.1", "tracing.sample"),
        ("headers: {'bad name': x}", "no name of a header"),
        ("headers: {authorization: env:NOT_SET}", "NOT_SET is not set"),
        ('headers: {authorization: "ab\\u00e9"}', "not allowed in a header"),
        ("sampling: 1", "unknown key tracing.sampling"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    found = mistake(tmp_path, text)
    assert words in found
    assert "pass-word" not in found


def test_a_header_may_have_a_space_and_is_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("tracing: {enabled: true, headers: {authorization: Bearer abc}}")
    settings = load(file, {})
    check(settings, {})
    assert "abc" not in repr(settings)


@pytest.mark.parametrize(
    ("setting", "environ", "url"),
    [
        (None, {}, "http://localhost:4318/v1/traces"),
        ("http://c:1", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://d/x"}, "http://c:1/v1/traces"),
        ("https://c/v1/traces", {}, "https://c/v1/traces"),
        ("https://c/otlp/", {}, "https://c/otlp/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://d:2/"}, "http://d:2/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://d/x"}, "http://d/x"),
    ],
)
def test_the_endpoint_is_that_of_the_settings_or_of_the_variables(
    setting: str | None, environ: dict[str, str], url: str
) -> None:
    assert endpoint_of(TracingSettings(endpoint=setting), environ) == url


def test_an_endpoint_is_shown_without_its_password() -> None:
    assert shown("https://me:secret@c:1/v1/traces") == "https://c:1/v1/traces"


@pytest.mark.parametrize(
    ("text", "environ", "words"),
    [
        ("endpoint: http://c:4318", {}, "no effect"),
        ("enabled: true\n  endpoint: http://c:4317", {}, "gRPC"),
        ("enabled: true", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
    ],
)
def test_a_likely_mistake_is_a_warning(
    tmp_path: Path, text: str, environ: dict[str, str], words: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"tracing:\n  {text}\n")
    [remark] = warnings_of(load(file, environ), environ)
    assert words in str(remark)


WITHOUT = "import sys; sys.modules['opentelemetry'] = None; from sage_inference._entry import main; sys.exit(main())"


@pytest.mark.parametrize("command", [["config", "validate"], ["start", "--background"]])
def test_without_the_extra_the_error_names_what_to_install(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "config.yaml").write_text("tracing: {enabled: true}")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "inference", *command],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "tracing.enabled needs OpenTelemetry" in done.stderr
    assert "pip install opentelemetry-sdk" in done.stderr
    assert "Traceback" not in done.stderr


LOADS = """
import asyncio, sys
from sage_inference.config.settings import Settings
from sage_inference.config.check import check
from sage_inference.server import RunningGateway

async def main():
    running = RunningGateway(Settings())
    async with running.working():
        assert running.gateway.tracer is None
        assert {kind.__name__ for kind in running.gateway.exchanges.values() if isinstance(kind, type)} == {
            "RerankExchange", "StoredResponseExchange", "ResponsesExchange"
        }

check(Settings())
asyncio.run(main())
print([name for name in sys.modules if name.startswith(("opentelemetry", "google.protobuf", "requests"))])
"""


def test_nothing_is_loaded_while_tracing_is_off(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADS],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
