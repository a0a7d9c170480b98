"""``start``: run the gateway, here or in the background."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Annotated, Any

import typer

from sage_inference.cli import remarks, terminal
from sage_inference.cli.complete import log_levels, policies
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, NoColor, as_path, warn_of_literal_key

app = plain_app()
_ENGINES, _SERVER = "Engines", "Server"


@app.command(cls=PlainCommand)
def start(
    ctx: typer.Context,
    llm_backend: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="An engine for text; repeat for more.", rich_help_panel=_ENGINES),
    ] = None,
    embedding_backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="An engine for embeddings; repeat for more.", rich_help_panel=_ENGINES
        ),
    ] = None,
    llm_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model for chats that name none.", rich_help_panel=_ENGINES),
    ] = None,
    embedding_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model for embeddings that name none.", rich_help_panel=_ENGINES),
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Start simulated engines to try it with.", rich_help_panel=_ENGINES),
    ] = False,
    no_discover: Annotated[
        bool,
        typer.Option(
            "--no-discover", help="Do not look for engines on this machine.", rich_help_panel=_ENGINES
        ),
    ] = False,
    no_engines: Annotated[
        bool,
        typer.Option(
            "--no-engines", help="Start no engines, only name the default models.", rich_help_panel=_ENGINES
        ),
    ] = False,
    scheduling_policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="How an instance is chosen.",
            autocompletion=policies,
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Address to listen on [127.0.0.1].", rich_help_panel=_SERVER),
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port to listen on [8000].", rich_help_panel=_SERVER)
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Key that callers must show: env:NAME, file:PATH, or the key.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Allow a non-loopback address without keys.", rich_help_panel=_SERVER
        ),
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="debug, info, warning or error.",
            autocompletion=log_levels,
            rich_help_panel=_SERVER,
        ),
    ] = None,
    background: Annotated[
        bool, typer.Option("--background", help="Return once the gateway answers.", rich_help_panel=_SERVER)
    ] = False,
    config: ConfigFile = None,
    no_color: NoColor = False,
) -> None:
    """Start the gateway.

    Without configured engines, it looks for engines that run on this machine, and serves them.

    Flags apply to this run and override environment and file; sage inference config changes the file.

    \b
    Examples:
      sage inference start
      sage inference start --simulate --background
      sage inference start --llm-backend http://127.0.0.1:8001 --embedding-backend 127.0.0.1:8090
      sage inference start --config work.yaml --port 8800
    """
    from sage_inference.config.paths import Paths
    from sage_inference.config.settings import Flags

    warn_of_literal_key(api_key)
    flags = Flags(
        llm_model=llm_model,
        embedding_model=embedding_model,
        llm_backends=tuple(llm_backend or ()),
        embedding_backends=tuple(embedding_backend or ()),
        scheduling_policy=scheduling_policy,
        host=host,
        port=port,
        api_key=api_key,
        log_level=log_level,
        insecure=insecure,
        simulate=simulate,
        no_discover=no_discover,
        no_engines=no_engines,
    )
    paths = Paths.resolve(as_path(config))
    if background:
        _in_background(paths, flags, config is not None)
    else:
        _here(paths, flags, config is not None, ctx.color)


def _in_background(paths: Any, flags: Any, required: bool) -> None:
    from sage_inference.daemon.spawn import start_background

    # The wait begins once the configuration was read: a broken one ends the command first.
    shown: set[str] = set()
    with terminal.WaitIndicator("waiting for the gateway", later=True) as waiting:
        started = start_background(
            paths,
            flags,
            config_required=required,
            on_settings=lambda settings: shown.update(remarks.warn_of(settings)),
            on_wait=waiting.begin,
        )
    announce(started.status, started.log_file, shown)


def _here(paths: Any, flags: Any, required: bool, colour: bool | None) -> None:
    from sage_inference.daemon.lock import refuse_second

    refuse_second(paths.lock_file)
    from sage_inference.daemon.run import run

    def read(_: Any) -> None:
        if terminal.is_live():
            terminal.talk("starting the gateway; Ctrl-C ends it")

    def ready(status: dict[str, Any]) -> None:
        # A gateway must run on if its output cannot be written: `start | head -1`, a full disk, a closed terminal.
        with suppress(OSError):
            announce(status, paths.log_file)

    run(paths, flags, config_required=required, on_settings=read, on_ready=ready, colour=colour)


def announce(status: dict[str, Any], log_file: Any, shown: Collection[str] = ()) -> None:
    """The facts that a person needs about a gateway that has just started. ``shown``: warnings shown before."""
    terminal.say(f"gateway running at {status['address']} (pid {status['pid']})")
    instances = status["instances"]
    simulated = [f"{i['name']} ({i['kind']})" for i in instances if i["simulated"]]
    if simulated:
        terminal.say(f"engines are simulated: {', '.join(simulated)}")
    for each in instances:
        if each["found"] and each["models"]:
            models = ", ".join(each["models"])
            terminal.say(f"found {each['name']} ({each['engine']}, {each['kind']}), serving {models}")
        if each["state"] != "ready":
            why = f": {each['last_error']}" if each["last_error"] else ""
            terminal.warn(f"instance {each['name']} at {each['url']} is {each['state']}{why}")
    if not instances:
        terminal.warn(
            _without_engines(status["discover"]), "start --simulate, --llm-backend URL, or config edit"
        )
    for warning in status["warnings"]:
        if warning not in shown:
            terminal.warn(warning)
    terminal.say(f"log: {log_file}")
    curl = curl_line(status)
    if curl:
        terminal.say(f"try: {curl}")


def _without_engines(discover: bool) -> str:
    if discover:
        return "no engine was found on this machine; one that starts now is served once it answers"
    return "no engines are configured"


def curl_line(status: dict[str, Any]) -> str | None:
    """A request that works with the models served now."""
    ready = [i for i in status["instances"] if i["state"] == "ready" and i["models"]]
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
    return f"curl {status['address']}{path} -H 'Content-Type: application/json'{key} -d '{quoted}'"
