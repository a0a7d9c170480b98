"""The lines that a person gets about a gateway that has just started."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from sage_inference.cli import startengines, terminal

if TYPE_CHECKING:
    from sage_inference.config.paths import Paths


def announce(
    status: dict[str, Any], log_file: Any, shown: Collection[str] = (), wait_by: Paths | None = None
) -> None:
    """The facts about a gateway that has just started. ``shown``: warnings shown before.

    With ``wait_by``, the paths of the gateway, its engines are waited for. Raises ``EngineFailed`` for one that does
    not become ready.
    """
    terminal.say(f"gateway running at {status['address']} (pid {status['pid']})")
    engines = startengines.engines_in(status)
    managed = {each["name"] for each in engines}
    _show_instances([each for each in status["instances"] if each["name"] not in managed])
    if not status["instances"] and not engines:
        terminal.warn(
            _without_engines(status["discover"]),
            "start --llm-model MODEL, --llm-backend URL or --simulate, or config edit",
        )
    for warning in status["warnings"]:
        if warning not in shown:
            terminal.warn(warning)
    if wait_by is not None and (coming := startengines.not_ready(engines)):
        status = startengines.wait_for(wait_by, coming) or status
        engines = startengines.engines_in(status)
    announce_engines(status, failed=wait_by is None)
    terminal.say(f"log: {log_file}")
    announce_curl(status)
    if wait_by is not None:
        startengines.fail_if_any_failed(engines)


def announce_engines(status: dict[str, Any], *, failed: bool = True) -> None:
    simulated = [f"{i['name']} ({i['kind']})" for i in status["instances"] if i["simulated"]]
    if simulated:
        terminal.say(f"engines are simulated: {', '.join(simulated)}")
    startengines.announce_engines(startengines.engines_in(status), failed=failed)


def announce_curl(status: dict[str, Any]) -> None:
    curl = curl_line(status)
    if curl:
        terminal.say(f"try: {curl}")
    chat = chat_line(status)
    if chat:
        terminal.say(f"or: {chat}")


def chat_line(status: dict[str, Any]) -> str | None:
    """A chat that works with the models served now."""
    ready = [i for i in status["instances"] if i["state"] == "ready" and i["kind"] in ("llm", "mixed")]
    models = dict.fromkeys(model for instance in ready for model in instance["models"])
    if not models:
        return None
    from shlex import quote

    from sage_inference.cli.program import as_called

    named = "" if len(models) == 1 else f" {quote(next(iter(models)))}"
    return f"{as_called('sage inference chat')}{named} hello"


def _show_instances(instances: list[dict[str, Any]]) -> None:
    for each in instances:
        if each["found"] and each["models"]:
            models = ", ".join(each["models"])
            terminal.say(f"found {each['name']} ({each['engine']}, {each['kind']}), serving {models}")
        if each["state"] != "ready":
            why = f": {each['last_error']}" if each["last_error"] else ""
            terminal.warn(f"instance {each['name']} at {each['url']} is {each['state']}{why}")


def _without_engines(discover: bool) -> str:
    if discover:
        return "no engine was found on this machine; one that starts now is served once it answers"
    return "no engines are configured"


def curl_line(status: dict[str, Any]) -> str | None:
    """A request that works with the models served now: first those for which the gateway started an engine."""
    managed = {each["name"] for each in startengines.engines_in(status)}
    ready = [i for i in status["instances"] if i["state"] == "ready" and i["models"]]
    ready.sort(key=lambda instance: instance["name"] not in managed)
    for each in ready:
        if each["kind"] != "embedding":
            message = {"role": "user", "content": "hello"}
            return _curl(status, "/v1/chat/completions", {"model": each["models"][0], "messages": [message]})
    for each in ready:
        return _curl(status, "/v1/embeddings", {"model": each["models"][0], "input": "hello"})
    return None


def _curl(status: dict[str, Any], path: str, body: dict[str, Any]) -> str:
    key = ' -H "Authorization: Bearer $KEY"' if status.get("needs_key") else ""
    quoted = terminal.json_text(body).replace("'", "'\\''")
    return f"curl {_curl_target(status)}{path} -H 'Content-Type: application/json'{key} -d '{quoted}'"


def _curl_target(status: dict[str, Any]) -> str:
    """The address, with the options by which curl trusts the gateway's certificate there."""
    address: str = status["address"]
    certificate = status.get("certificate")  # an older gateway does not report it
    if certificate is None:
        return address
    import shlex
    from urllib.parse import urlsplit

    from sage_inference.netloc import origin, reachable

    trusts = f"--cacert {shlex.quote(certificate['file'])}"
    parts = urlsplit(address)
    host, port, names = reachable(parts.hostname or ""), parts.port or 443, certificate["names"]
    if host in names:
        return f"{trusts} {origin(host, port, True)}"
    named = next(
        (name for name in names if name[:1].isalpha() and ":" not in name and name != "localhost"), None
    )
    if named is None:
        return (
            f"--insecure {origin(host, port, True)}"  # the certificate is for no name that curl could check
        )
    return f"{trusts} --resolve {named}:{port}:{host} {origin(named, port, True)}"
