"""Errors between a keeper and its clients."""

from __future__ import annotations


class KeeperError(Exception):
    """The message describes the fault, and ``hint`` the remedy."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class AlreadyKeptError(KeeperError):
    """Another keeper holds the lock of this directory: it can be adopted."""


class LostKeeperError(KeeperError):
    """A process holds the lock, and does not prove that it is the keeper. Nothing of it may be signalled."""
