"""The check of a state machine: its table of legal moves. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import TypeVar

_State = TypeVar("_State", bound=Enum)


class IllegalMoveError(RuntimeError):
    """A move that the table does not allow: a defect of the program."""


def check_move(what: str, moves: Mapping[_State, Collection[_State]], now: _State, to: _State) -> None:
    """Raises IllegalMoveError unless `what` may go from the state `now` to the state `to`.

    A state that is not in the table is final.
    """
    if to not in moves.get(now, ()):
        raise IllegalMoveError(f"{what} cannot go from {now.name.lower()} to {to.name.lower()}")
