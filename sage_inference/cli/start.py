"""``start``: run the gateway, here or in the background."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

import typer

from sage_inference.cli import remarks, startengines, terminal
from sage_inference.cli.announce import announce, announce_curl, announce_engines
from sage_inference.cli.complete import WAITS, log_levels, policies, waits
from sage_inference.cli.errors import usage
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ConfigFile, NoColor, as_path, check_choice, warn_of_literal_key

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
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Dashboard of a Ray cluster, whose engines are served.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    llm_model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model for chats that name none; an engine is started if none serves it.",
            rich_help_panel=_ENGINES,
        ),
    ] = None,
    embedding_model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The same for embeddings.", rich_help_panel=_ENGINES),
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
    wait: Annotated[
        str | None,
        typer.Option(
            metavar="FOR",
            help="With --background, wait for: none, gateway or engines, the default where a model is named.",
            autocompletion=waits,
            rich_help_panel=_SERVER,
        ),
    ] = None,
    config: ConfigFile = None,
    no_color: NoColor = False,
) -> None:
    """Start the gateway.

    Without configured engines, it looks for engines that run on this machine, and serves them. A model that is named
    here and that none of them serves gets an engine of its own.

    Flags apply to this run and override environment and file; sage inference config changes the file.

    \b
    Examples:
      sage inference start
      sage inference start --simulate --background
      sage inference start --llm-model Qwen/Qwen2.5-7B-Instruct --embedding-model BAAI/bge-m3 --background
      sage inference start --llm-backend http://127.0.0.1:8001 --embedding-backend 127.0.0.1:8090
      sage inference start --cluster http://head:8265 --background
      sage inference start --config work.yaml --port 8800
    """
    from sage_inference.config.paths import Paths
    from sage_inference.config.settings import Flags

    if wait is not None:
        check_choice("value of --wait", wait, WAITS)
        if not background:
            raise usage(
                "--wait is for --background; in the foreground start goes on at once and shows progress"
            )
    warn_of_literal_key(api_key)
    flags = Flags(
        llm_model=llm_model,
        embedding_model=embedding_model,
        llm_backends=tuple(llm_backend or ()),
        embedding_backends=tuple(embedding_backend or ()),
        cluster=cluster,
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
        default = "engines" if (llm_model or embedding_model) and not no_engines else "gateway"
        _in_background(paths, flags, config is not None, wait or default)
    else:
        _here(paths, flags, config is not None, ctx.color)


def _in_background(paths: Any, flags: Any, required: bool, wait: str) -> None:
    from sage_inference.daemon.spawn import launch, start_background

    shown: set[str] = set()

    def read(settings: Any) -> None:
        shown.update(remarks.warn_of(settings))

    if wait == "none":
        pid = launch(paths, flags, config_required=required, on_settings=read)
        terminal.say(f"the gateway is starting (pid {pid}); sage inference status shows it")
        return
    # The wait begins once the configuration was read: a broken one ends the command first.
    with terminal.WaitIndicator("waiting for the gateway", later=True) as waiting:
        started = start_background(
            paths, flags, config_required=required, on_settings=read, on_wait=waiting.begin
        )
    announce(started.status, started.log_file, shown, paths if wait == "engines" else None)


def _here(paths: Any, flags: Any, required: bool, colour: bool | None) -> None:
    from sage_inference.daemon.lock import refuse_second

    refuse_second(paths.lock_file)
    from sage_inference.daemon.run import run

    def read(_: Any) -> None:
        if terminal.is_live():
            terminal.talk("starting the gateway; Ctrl-C ends it")

    def up(status: dict[str, Any]) -> None:
        announce_engines(status)
        announce_curl(status)

    with startengines.ProgressHere(paths, up) as progress:

        def ready(status: dict[str, Any]) -> None:
            # A gateway must run on if its output cannot be written: `start | head -1`, a full disk, a closed terminal.
            with suppress(OSError):
                announce(status, paths.log_file)
            progress.begin(status)

        run(paths, flags, config_required=required, on_settings=read, on_ready=ready, colour=colour)
