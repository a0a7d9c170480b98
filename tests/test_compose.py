"""The compose file in the documents is consistent, and the gateway takes what it gives to it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

import sage_inference
from sage_inference.cli.inference import InferenceGroup
from sage_inference.config.check import check
from sage_inference.config.load import parse

PAGE = Path(sage_inference.__file__).parent / "docs" / "operations.md"
TEXT = PAGE.read_text().partition("```yml\n")[2].partition("```")[0]
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = FILE["services"]
# Keys of the Compose Specification. A mistyped one is an error of docker compose.
KEYS = {
    "command",
    "configs",
    "deploy",
    "environment",
    "healthcheck",
    "image",
    "ipc",
    "ports",
    "restart",
    "stop_grace_period",
    "volumes",
}
DURATION = re.compile(r"(?:\d+h)?(?:\d+m)?(?:\d+s)?")
# The ports that these images listen on.
LISTENS = {"vllm": 8000, "tei": 80}


def settings() -> Any:
    return parse(FILE["configs"]["gateway"]["content"], "compose")


def test_it_needs_no_dockerfile_and_knows_only_keys_of_compose() -> None:
    assert set(FILE) == {"name", "services", "configs", "volumes"}
    assert set(SERVICES) == {"gateway", "vllm", "tei"}
    for service in SERVICES.values():
        assert set(service) <= KEYS
        assert re.fullmatch(r"[\w./-]+:[\w.-]+", service["image"])
        assert isinstance(service["command"], list)
        assert all(isinstance(word, str) for word in service["command"])


def test_each_volume_and_each_configuration_is_declared_and_used() -> None:
    named = [entry.split(":")[0] for service in SERVICES.values() for entry in service.get("volumes", ())]
    assert {each for each in named if not each.startswith((".", "/"))} == set(FILE["volumes"])
    assert {each["source"] for each in SERVICES["gateway"]["configs"]} == set(FILE["configs"])


def test_the_gateway_takes_its_configuration_and_its_command_line() -> None:
    found = settings()
    check(found, {"SAGE_KEY": "a-key"})
    for each in found.instances:
        address = urlsplit(each.url)
        assert address.port == LISTENS[str(address.hostname)]
        assert address.hostname in SERVICES
        assert "ports" not in SERVICES[str(address.hostname)]
    [target] = [each["target"] for each in SERVICES["gateway"]["configs"]]
    shell = SERVICES["gateway"]["command"]
    assert shell[:2] == ["sh", "-c"]
    words = shlex.split(shell[2])
    called = words[words.index("sage-inference") + 1 :]
    assert called == ["start", "--config", target]
    command: Any = typer.main.get_command(import_module(InferenceGroup.lazy["start"].module).app)
    assert "--config" in {option for parameter in command.params for option in parameter.opts}


def test_only_this_machine_reaches_it_and_a_stop_waits_for_requests() -> None:
    gateway = SERVICES["gateway"]
    [port] = gateway["ports"]
    assert port == f"127.0.0.1:8000:{settings().server.port}"
    assert DURATION.fullmatch(gateway["stop_grace_period"])
    assert int(gateway["stop_grace_period"].removesuffix("s")) > settings().timeouts.drain_s + 10
    assert gateway["environment"]["SAGE_KEY"].startswith("${SAGE_KEY:?")
    assert gateway["healthcheck"]["test"][0] == "CMD"
    assert DURATION.fullmatch(gateway["healthcheck"]["start_period"])


def has_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=20)
    return asked.returncode == 0


@pytest.mark.skipif(not has_compose(), reason="there is no docker compose")
def test_docker_compose_reads_it(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(TEXT)
    (tmp_path / ".env").write_text("SAGE_KEY=a-key\n")
    call = ["docker", "compose", "--project-directory", str(tmp_path), "config", "--quiet"]
    read = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert read.returncode == 0, read.stderr
