"""Enumerations that accept words for members, with errors that name the choices."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

_Member = TypeVar("_Member", bound=Enum)


class Choice:
    """An enumeration that accepts a member's name or value in any case. Raises ``ValueError`` with the choices."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        members: Mapping[str, Enum] = getattr(cls, "__members__", {})
        word = value.strip().lower() if isinstance(value, str) else None
        for name, member in members.items():
            if word in (name.lower(), str(member.value)):
                return member
        raise ValueError(f"{value!r} is not one of {', '.join(name.lower() for name in members)}")


def member_of(cls: type[_Member], value: object, field: str) -> _Member:
    """The member ``value``, or the one that it names. Raises ``ValueError`` with the field's name and the choices."""
    try:
        return cls(str(value) if isinstance(value, bool) else value)
    except ValueError as error:
        raise ValueError(f"{field} {error}") from None
