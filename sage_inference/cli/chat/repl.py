"""The conversation at a terminal: lines are read, commands obeyed, prompts answered."""

from __future__ import annotations

import sys

from sage_inference.cli import terminal
from sage_inference.cli.chat import slash
from sage_inference.cli.chat.conversation import Conversation
from sage_inference.cli.chat.interrupts import InterruptWatch
from sage_inference.cli.chat.lines import Ended, Interrupted, Lines
from sage_inference.cli.chat.output import aside
from sage_inference.cli.errors import Failure, from_exception
from sage_inference.cli.served import wait_for_engine

_GREETING = "/help lists the commands, Ctrl-D ends."


class Repl:
    """Runs until /exit, Ctrl-D, or a second Ctrl-C at an empty prompt."""

    def __init__(self, talk: Conversation, *, keeps_history: bool, colour: bool | None) -> None:
        self._talk = talk
        self._colour = colour
        self._keeps_history = keeps_history
        self._interrupts = InterruptWatch()

    def run(self) -> None:
        wait_for_engine(self._talk.server, self._talk.model)
        lines = Lines(
            self._talk.server.paths,
            keeps_history=self._keeps_history,
            words=lambda: [*slash.WORDS, *self._talk.server.names()],
            interrupts=self._interrupts,
        )
        aside(f"{self._talk.model} at {self._talk.server.url}. {_GREETING}")
        interrupted = False
        while True:
            try:
                text = lines.read()
            except Ended:
                terminal.say_made("")
                return
            except Interrupted as stop:
                terminal.say_made("")
                if interrupted and stop.was_empty:
                    return
                interrupted = stop.was_empty
                if interrupted:
                    aside("Ctrl-C again or Ctrl-D ends the conversation.")
                continue
            interrupted = False
            if not self._obeyed(text):
                return

    def _obeyed(self, text: str) -> bool:
        """False if the conversation is over. A failure is shown, and the conversation goes on."""
        try:
            if slash.is_command(text):
                return slash.obey(self._talk, text)
            if text.strip():
                with self._interrupts.watching():
                    self._talk.ask(text, self._colour)
        except KeyboardInterrupt:
            aside("interrupted")
        except BrokenPipeError:
            raise
        except Exception as error:
            failure = error if isinstance(error, Failure) else from_exception(error)
            terminal.fail(failure.message, failure.hint, self._colour)
        sys.stdout.flush()
        return True
