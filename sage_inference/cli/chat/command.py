"""``chat``: talk to a model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sage_inference.cli.complete import chat_models, chat_words, sampling_fields
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import ApiKey, BaseUrl, Json, NoColor

app = plain_app()
_REQUEST = "Request"

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL] [PROMPT]",
        help="A served model [the only one], and a prompt; - reads stdin.",
        autocompletion=chat_words,
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="The model; all words are then the prompt.",
        autocompletion=chat_models,
        rich_help_panel=_REQUEST,
    ),
]
System = Annotated[
    str | None,
    typer.Option("--system", "-s", metavar="TEXT", help="The system prompt.", rich_help_panel=_REQUEST),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="temperature, max_tokens, top_p, seed, stop, ...",
        autocompletion=sampling_fields,
        rich_help_panel=_REQUEST,
    ),
]


@app.command(cls=PlainCommand)
def chat(
    context: typer.Context,
    words: Words = None,
    model: Model = None,
    system: System = None,
    settings: Set = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Neither read nor keep the lines that are typed.")
    ] = False,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Talk to a model.

    Without a prompt, a conversation begins; /help lists its commands, Ctrl-D ends it. With a prompt, the answer is
    printed and the command ends. In a pipe or file, that is exactly the answer and a line break.

    The first word is the model if it names one. Otherwise a single word (or text in quotes) is a prompt for the only
    chat model, or for llm_model of the configuration. A single word that resembles a model's name is refused.

    Stdin is read for - among the words, or if there is no prompt and stdin is no terminal. Ctrl-C ends an answer, also
    in the engine. SAGE_UNIFIED_BASE_URL or SAGE_CHAT_BASE_URL names another server, too.

    \b
    Examples:
      sage inference chat
      sage inference chat "Why is the sky blue?"
      sage inference chat qwen2.5-7b "Summarize this:" - < notes.txt
      sage inference chat --set temperature=0 --json "Is water wet?"
    """
    from sage_inference.cli.chat.conversation import Conversation
    from sage_inference.cli.chat.sampling import fields
    from sage_inference.cli.chat.words import clean, prompt_of, split
    from sage_inference.cli.errors import usage
    from sage_inference.cli.served import find_server

    chosen: dict[str, Any] = fields(settings or ())
    server = find_server("chat", base_url, api_key)
    name, rest = split(server, model, words or ())
    prompt = prompt_of(rest)
    if prompt is None and as_json:
        raise usage("--json needs a prompt", 'sage inference chat --json "Is water wet?"')
    talk = Conversation(server, name, None if system is None else clean(system), chosen)
    if prompt is not None:
        talk.answer_once(prompt, as_json=as_json, colour=context.color)
        return
    from sage_inference.cli.chat.repl import Repl

    Repl(talk, keeps_history=not no_history, colour=context.color).run()
