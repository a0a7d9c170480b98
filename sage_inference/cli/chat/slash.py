"""The commands of a conversation: lines that begin with a slash."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sage_inference.cli import terminal
from sage_inference.cli.chat.conversation import Conversation
from sage_inference.cli.chat.output import summary
from sage_inference.cli.chat.sampling import FIELDS, canonical, field
from sage_inference.cli.errors import usage
from sage_inference.cli.served import wait_for_engine
from sage_inference.daemon.models import suits

_WORD = re.compile(r"/[a-z?]+(?=\s|$)", re.I)

Action = Callable[[Conversation, str], bool]


@dataclass(frozen=True, slots=True)
class SlashCommand:
    form: str
    help: str
    action: Action


def is_command(text: str) -> bool:
    """A path such as ``/usr/bin`` is a prompt, and so is a text of several lines."""
    return "\n" not in text and _WORD.match(text) is not None


def obey(talk: Conversation, text: str) -> bool:
    """Returns False if the conversation is over. Raises a usage failure for a wrong command."""
    word, _, rest = text.partition(" ")
    name = _SAME.get(word.lower(), word.lower())
    if name not in _COMMANDS:
        from difflib import get_close_matches

        close = get_close_matches(name, _COMMANDS, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise usage(f"no command {word}", f"{meant}/help lists them; a space before it makes it a prompt")
    return _COMMANDS[name].action(talk, rest.strip())


def _help(talk: Conversation, rest: str) -> bool:
    longest = max(len(command.form) for command in _COMMANDS.values())
    for command in _COMMANDS.values():
        terminal.say(f"  {command.form.ljust(longest)}  {command.help}")
    terminal.say("")
    terminal.say("A backslash at the end of a line continues it.")
    terminal.say('""" begins and ends a text of several lines.')
    terminal.say("/set NAME without a value resets the setting.")
    terminal.say("Ctrl-C ends an answer, Ctrl-D the conversation.")
    return True


def _clear(talk: Conversation, rest: str) -> bool:
    talk.messages.clear()
    terminal.say("the conversation is forgotten; system prompt and settings stay")
    return True


def _system(talk: Conversation, rest: str) -> bool:
    if rest:
        talk.system = None if rest in ('""', "''", "none") else rest
    terminal.say(f"system prompt: {talk.system}" if talk.system else "no system prompt")
    return True


def _model(talk: Conversation, rest: str) -> bool:
    if rest:
        name = talk.server.require(rest, "chat")
        wait_for_engine(talk.server, name)
        talk.model = name
    for model in talk.server.models:
        if suits(model, "chat") is not False:
            mark = "*" if talk.model == model["name"] or talk.model in model["aliases"] else " "
            terminal.say(f"{mark} {', '.join([model['name'], *model['aliases']])}")
    if not talk.server.models:
        terminal.say(f"* {talk.model}")
    return True


def _set(talk: Conversation, rest: str) -> bool:
    name, _, value = rest.replace("=", " ", 1).partition(" ")
    if name and not value.strip():
        if canonical(name) in talk.fields:
            del talk.fields[canonical(name)]
        else:
            field(name, "")  # raises for an unknown name or the missing value
    elif name:
        talk.fields[canonical(name)] = field(name, value)
    for known, given in talk.fields.items():
        terminal.say(f"  {known} {given}")
    if not talk.fields:
        terminal.say(f"nothing is set; there are: {', '.join(FIELDS)}")
    return True


def _stats(talk: Conversation, rest: str) -> bool:
    terminal.say(f"model {talk.model} at {talk.server.url}")
    terminal.say(
        f"answers: {talk.replies}, tokens: {talk.tokens:,}, remembered messages: {len(talk.messages)}"
    )
    if talk.last is not None:
        prompt = talk.last.usage.get("prompt_tokens")
        read = f"{prompt:,} prompt tokens, " if isinstance(prompt, int) else ""
        terminal.say(f"last answer: {read}{summary(talk.last)}")
        if talk.server.paths is not None and talk.last.request_id:
            terminal.say(f"sage inference explain {talk.last.request_id} shows where it was sent, and why")
    return True


def _exit(talk: Conversation, rest: str) -> bool:
    return False


_COMMANDS = {
    "/help": SlashCommand("/help", "Show this list.", _help),
    "/clear": SlashCommand("/clear", "Forget the conversation.", _clear),
    "/system": SlashCommand("/system [TEXT]", 'Show or set the system prompt ("": none).', _system),
    "/model": SlashCommand("/model [NAME]", "Show the models, or talk to another.", _model),
    "/set": SlashCommand("/set [NAME VALUE]", "Show or set temperature and others.", _set),
    "/stats": SlashCommand("/stats", "Show tokens and times.", _stats),
    "/exit": SlashCommand("/exit", "End the conversation.", _exit),
}
_SAME = {"/?": "/help", "/bye": "/exit", "/quit": "/exit", "/q": "/exit"}
WORDS = tuple(_COMMANDS)
