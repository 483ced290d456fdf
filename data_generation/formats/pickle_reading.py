"""Pickles of plain data, read without executing them.

A pickle is a program. Python's own unpickler, even where it is told which names it may know, allocates
what the program announces: twenty bytes can ask for gigabytes of memory, or for hours of hashing. This
reader carries out the few operations that dictionaries, lists, tuples, numbers, texts and bytes need,
on the tokens of `pickletools`. Every token stands for bytes that are in the file, every name is looked
up in a table of the caller's, keys are texts or bytes, and everything else is refused.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

MOST_OPERATIONS = 2_000_000
"""Of one pickle; a batch of CIFAR-10 has 50,000, a network of a thousand layers fewer."""

Names = Mapping[tuple[str, str], Any]
"""(module, name) as a pickle has them -> what it stands for; a function where it is called."""


@runtime_checkable
class Described(Protocol):
    """What a pickle may describe further after it has made it."""

    def describe(self, state: Any) -> None:
        """Takes the further description."""


_MARK = object()
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT")
_TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
_VALUES = frozenset(_NUMBERS + _TEXTS + _BYTES)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(
    content: bytes,
    names: Names,
    *,
    persistent: Callable[[Any], Any] | None = None,
    most_operations: int = MOST_OPERATIONS,
) -> Any:
    """What a pickle of protocol 2 or later describes.

    Args:
        content: the pickle.
        names: what it may name, and what that stands for.
        persistent: makes a thing of its persistent identifier.
        most_operations: that are carried out.

    Returns:
        The thing; texts of Python 2 as bytes.

    Raises:
        ValueError: it is damaged, or asks for anything else; one line.
    """
    machine = _Machine(names, persistent)
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if number == most_operations:
                raise ValueError(f"it has more than {most_operations} operations")
            if operation.name == "STOP":
                return machine.result()
            machine.carry_out(operation.name, argument)
    except ValueError:
        raise
    except Exception as error:  # whatever a damaged or hostile stream provokes
        raise ValueError(f"it is damaged ({type(error).__name__})") from error
    raise ValueError("it has no end")


class _Machine:
    """A stack and a memory, of which each token adds to at most one."""

    def __init__(self, names: Names, persistent: Callable[[Any], Any] | None):
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self.stack) != 1:
            raise ValueError("it is damaged: it ends in the middle")
        return self.stack[0]

    def carry_out(self, name: str, argument: Any) -> None:
        push, pop = self.stack.append, self.stack.pop
        if name in _VALUES:
            push(argument)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name]())
        elif name in ("BINSTRING", "SHORT_BINSTRING"):
            push(argument.encode("latin-1"))  # as pickletools has decoded it
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memory[len(self.memory) if argument is None else argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            push(self.memory[argument])
        elif name == "TUPLE":
            push(tuple(self.since_mark()))
        elif name in _TUPLES:
            items = [pop() for _ in range(_TUPLES[name])]
            push(tuple(reversed(items)))
        elif name in ("APPEND", "APPENDS"):
            items = [pop()] if name == "APPEND" else self.since_mark()
            self.top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.since_mark() if name == "SETITEMS" else [pop(), pop()][::-1]
            self.set_items(items)
        elif name == "GLOBAL":
            push(self.named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            word, module = pop(), pop()
            push(self.named(module, word))
        elif name == "REDUCE":
            arguments, function = pop(), pop()
            if not callable(function) or not isinstance(arguments, tuple):
                raise ValueError("it calls what is no function")
            push(function(*arguments))
        elif name == "BUILD":
            state = pop()
            if isinstance(self.stack[-1], Described):
                self.stack[-1].describe(state)
            else:
                self.top(dict)  # attributes of a dictionary carry no data
        elif name == "BINPERSID" and self.persistent is not None:
            push(self.persistent(pop()))
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"it uses the operation {name}, which plain data do not need")

    def since_mark(self) -> list[Any]:
        # From the top, so that many marks cost no more than what lies between them.
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"it is damaged: a {kind.__name__} is expected")
        return self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("it is damaged: a key has no value")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a tuple of tuples of one tuple takes for ever.
            if not isinstance(key, str | bytes):
                raise ValueError(f"it has a key that is no text but a {type(key).__name__}")
            target[key] = value

    def named(self, module: Any, word: Any) -> Any:
        known = isinstance(module, str) and isinstance(word, str) and (module, word) in self.names
        if not known:
            asked = ".".join(str(p)[:80] if isinstance(p, str) else "?" for p in (module, word))
            raise ValueError(f"it asks for {asked}, which plain data do not")
        return self.names[module, word]
