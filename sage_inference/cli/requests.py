"""``requests``: the last requests, one a line, and those that end from now on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_inference.cli import table, terminal
from sage_inference.cli.complete import instances, keys, models
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import OUTPUT, NoColor
from sage_inference.cli.pausing import pause

if TYPE_CHECKING:
    from sage_inference.cli.requesttext import RequestFilter, RequestLog
    from sage_inference.daemon.requests import RequestFeed

app = plain_app()
_FILTER = "Filters"
_LAST, _LAST_BEFORE_MORE = 1000, 20
_LOOK_S, _SOON_S = 0.5, 0.1
_MANY = 100  # rows of one look, after which the next one is soon


Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        "-n",
        metavar="N",
        min=0,
        help="Last requests to show [1000; with -f 20].",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Only of this model; * is any letters.",
        autocompletion=models,
        rich_help_panel=_FILTER,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Only of this key, or of this user.",
        autocompletion=keys,
        rich_help_panel=_FILTER,
    ),
]
Instance = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Only at this instance.", autocompletion=instances, rich_help_panel=_FILTER
    ),
]
Failed = Annotated[
    bool,
    typer.Option(
        "--failed", help="Only errors, refusals, broken answers and retries.", rich_help_panel=_FILTER
    ),
]
JsonLines = Annotated[
    bool, typer.Option("--json", help="One JSON object a line, schema 1.", rich_help_panel=OUTPUT)
]


@app.command(cls=PlainCommand)
def requests(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as requests end.")] = False,
    limit: Limit = None,
    model: Model = None,
    key: Key = None,
    instance: Instance = None,
    failed: Failed = False,
    as_json: JsonLines = False,
    no_color: NoColor = False,
) -> None:
    """Show the last requests: where they went, and how fast.

    The gateway remembers the last 1024 requests that it sent to an instance, and the last 100 that it refused: sizes
    and times, never texts. They are listed in the order of their ends. A request that was sent again has a line for
    each attempt. Requests that still run are not among them.

    TIME is that of the end, QUEUE the time from the arrival to the dispatch, TTFT that to the first byte of a stream,
    and TOTAL that to the end. TOK/S is the pace of a stream after its first token. WHY is the reason of the decision,
    or of the refusal, and explain shows the whole.

    With --follow the command goes on when the gateway restarts. Requests that it could not show are counted on stderr.

    \b
    Examples:
      sage inference requests -f
      sage inference requests --failed --model 'qwen*'
      sage inference requests --json | jq .ttft_ms
    """
    from sage_inference.cli.requesttext import RequestFilter, RequestLog
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.requests import RequestFeed

    wanted = RequestFilter(model, key, instance, failed)
    feed, log = RequestFeed(Paths.resolve()), None if as_json else RequestLog()
    most = limit if limit is not None else _LAST_BEFORE_MORE if follow else _LAST
    rows = feed.first()
    fitting = [row for row in rows if wanted.fits(row)]
    _show(fitting[max(len(fitting) - most, 0) :], log)
    if follow:
        _follow(feed, wanted, log)
    elif not fitting:
        terminal.talk(f"none of the last {len(rows):,} requests fits" if rows else "no request has ended yet")
    elif log is not None and log.left_out:
        terminal.talk(f"no room for {', '.join(log.left_out)}; --json has all")


def _follow(feed: RequestFeed, wanted: RequestFilter, log: RequestLog | None) -> None:
    wait_s = _LOOK_S
    while True:
        pause(wait_s)
        look = feed.more()
        for notice in look.notices:
            terminal.talk(notice)
        _show([row for row in look.rows if wanted.fits(row)], log)
        # Many rows a look are near the number that the gateway remembers.
        wait_s = _SOON_S if len(look.rows) > _MANY else _LOOK_S


def _show(rows: Sequence[dict[str, Any]], log: RequestLog | None) -> None:
    if log is None:
        for row in rows:
            terminal.say_json({"schema": 1, **row})
    elif rows:
        terminal.say_made("\n".join(log.lines(rows, table.width_of_terminal())))
    sys.stdout.flush()
