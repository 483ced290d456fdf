"""What every script shares: flags made from settings, errors of one line, a cache of programs.

A script is

    FLAGS = define_flags(TrainSettings)

    def main() -> None:
        settings = settings_from_flags(TrainSettings, FLAGS)
        with importing():
            from experiments.populations.training import train
        ...

    def run(argv: Sequence[str] | None = None) -> int:
        return run_script(main, FLAGS, argv=argv, description=__doc__, example="...")

with the imports that are heavy inside `main`, so that `--help` and a mistyped flag are answered at
once. Each script has a FlagValues of its own: two of them can live in one process.
"""

import contextlib
import contextvars
import dataclasses
import difflib
import errno
import functools
import importlib
import inspect
import os
import re
import signal
import sys
import traceback
import types
import typing
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from absl import flags

from data_generation.formats.plain_numbers import plain_float, plain_int
from data_generation.scripts import vectors as vector_pages
from data_generation.scripts.compilation_cache import FLAG_HELP, about_cache, compilation_cache
from data_generation.scripts.flag_help import attribute_documentation, heading, help_text
from data_generation.scripts.loading import loading_said
from data_generation.scripts.processes import (
    Group,
    ProcessSettings,
    check_same_flags,
    is_follower,
    own_place,
)
from data_generation.scripts.standard_streams import (
    OutputError,
    escaped,
    lenient_errors,
    open_closed_streams,
    write_output,
)
from data_generation.scripts.termination import EXIT_TERMINATED, Terminated, termination_raised
from diffusions.memory import check_memory

SettingsT = TypeVar("SettingsT")

EXIT_INCOMPLETE = 1
EXIT_BAD_INPUT = 2
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
EXIT_NO_OUTPUT = 74  # EX_IOERR
EXIT_OTHER_ENDED = 75  # EX_TEMPFAIL
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_PIPE_CLOSED = 128 + 13  # SIGPIPE, which Windows has not

_EVERY_SCRIPT = "Every script"
_MOST_MESSAGE = 1000
_OF_ONE_PROCESS = (
    *("process", "coordinator", "compilation_cache", "vectors", "debug"),
    *("data_dir", "data_path", "runs_dir"),
)
"""Flags that may differ between the processes of a run."""


@typing.runtime_checkable
class _NamesInputs(typing.Protocol):
    """Settings that name files or folders."""

    def check_inputs(self) -> None: ...


class UsageError(ValueError):
    """A command line that cannot be understood."""


class Incomplete(Exception):
    """Some of what a script was asked for is there; the message says what is not."""


class Hint(str):
    """A note of an exception (`add_note`) that a user reads after its message, on the same line."""


def say(text: str = "") -> None:
    """Writes to standard output, at once; of several processes the first one does."""
    if is_follower():
        return
    lines = (escaped(line) for line in text.split("\n"))
    write_output("\n".join(lines) + "\n")


def define_flags(
    settings_class: type,
    into: flags.FlagValues | None = None,
    *,
    exclude: Collection[str] = (),
) -> flags.FlagValues:
    """Defines one flag per field of a settings class, described by its docstring.

    Args:
        settings_class: a dataclass whose fields are int, float, str, bool, a Literal of words, a
            tuple of one of int, float, str, or one of these or None. Of a field with the metadata
            `names` the help says these.
        into: flags to add to; new ones when absent.
        exclude: fields that get no flag.

    Returns:
        The flags.
    """
    values = flags.FlagValues() if into is None else into
    hints = typing.get_type_hints(settings_class)
    documentation = attribute_documentation(settings_class)
    own = inspect.get_annotations(settings_class)
    # What many classes share comes after what is particular to one.
    for field in sorted(dataclasses.fields(settings_class), key=lambda f: f.name not in own):
        if field.name in exclude:
            continue
        default = _default(field)
        doc = documentation.get(field.name, "")
        kind, words = _kind(hints[field.name])
        words = words or tuple(field.metadata.get("names", ()))
        owner = next(c for c in settings_class.__mro__ if field.name in inspect.get_annotations(c))
        where: dict[str, Any] = {"flag_values": values, "module_name": heading(owner)}
        if kind is bool:
            flags.DEFINE_boolean(field.name, default, doc, **where)
            continue
        if isinstance(kind, tuple):
            parser: flags.ArgumentParser = _ListParser(kind[0], words)
        elif kind is str:
            parser = _TextParser(words)
        else:
            parser = _IntParser() if kind is int else _FloatParser()
        flags.DEFINE(parser, field.name, default, doc, **where)
    return values


def settings_from_flags(
    settings_class: type[SettingsT], values: flags.FlagValues, **fixed: Any
) -> SettingsT:
    """The settings that the parsed flags describe.

    Args:
        settings_class: as given to `define_flags`.
        values: parsed flags.
        **fixed: fields that have no flag.

    Returns:
        The settings; fields with neither a flag nor a fixed value keep their defaults.

    Raises:
        ValueError: what the settings refuse; or what they ask for does not fit into memory: their
            `memory_needs`, where they have any, say bytes of the largest arrays; or a file or a folder
            that they name is missing: their `check_inputs`, where they have it, says so while no JAX
            is loaded.
    """
    given = {
        field.name: values[field.name].value
        for field in dataclasses.fields(settings_class)  # type: ignore[arg-type]
        if field.name in values
    }
    settings = settings_class(**(given | fixed))
    check_memory(getattr(settings, "memory_needs", {}))
    check_inputs(settings)
    return settings


def check_inputs(settings: Any) -> None:
    """Raises ValueError where a file or a folder that settings name is missing, as they say it."""
    if isinstance(settings, _NamesInputs) and Group.current is None:
        settings.check_inputs()  # of several processes the work itself does, for all of them


def run_script(
    main: Callable[[], None],
    values: flags.FlagValues,
    *,
    argv: Sequence[str] | None = None,
    program: str | None = None,
    description: str | None = "",
    example: str = "",
) -> int:
    """Parses the flags, runs `main`, and turns bad input into one line on standard error.

    Args:
        main: the script; it reads `values`.
        values: the script's flags, as `define_flags` makes them.
        argv: the arguments, without the program; those of the process when absent.
        program: how to start the script, for the help; from the process when absent.
        description: for the help.
        example: a command line, for the help.

    Returns:
        The exit status: 0; 1 where a part of the work failed; 2 for bad input, and for what does not
        fit into memory or onto the disk; 70 for a bug; 74 where standard output cannot be written; 75
        where another process of the run has ended; 130 for an interrupt; 141 where whoever read
        standard output went away; 143 for SIGTERM.
    """
    open_closed_streams()
    # What XLA says of its own slowness is for its developers. JAX, which reads this, comes later.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with lenient_errors(), _warnings_of_one_line(), termination_raised():
            status = _run_script(
                main,
                values,
                list(sys.argv[1:] if argv is None else argv),
                functools.partial(
                    help_text, values, program or _program(), description or "", example
                ),
            )
    except KeyboardInterrupt as error:  # before the work began, or when all of it was done
        status = _stopped(error)
    if Group.current is not None and _has_others(values):
        Group.current.leave(status)
    return status


@contextlib.contextmanager
def _warnings_of_one_line() -> Iterator[None]:
    """What the library says is said without the place in its code."""
    with warnings.catch_warnings():
        shown, said = warnings.showwarning, set()

        def show(message, category, *place, **more):
            if is_follower():
                return
            if category is UserWarning:
                kind, line = about_cache(one_line(message))
                if kind not in said:
                    sys.stderr.write(f"warning: {line}\n")
                if kind is not None:
                    said.add(kind)
            else:
                shown(message, category, *place, **more)

        warnings.showwarning = show
        yield


def _stopped(error: KeyboardInterrupt) -> int:
    """Says that the run was interrupted; its exit status."""
    terminated = isinstance(error, Terminated)
    word, status = (
        ("terminated", EXIT_TERMINATED) if terminated else ("interrupted", EXIT_INTERRUPTED)
    )
    sys.stderr.write(f"{word}{_hints(error)}\n")
    return status


def _run_script(
    main: Callable[[], None],
    values: flags.FlagValues,
    arguments: list[str],
    explained: Callable[..., str],
) -> int:
    if "debug" not in values:
        if "devices" in values:
            define_flags(ProcessSettings, into=values)
        where: dict[str, Any] = {"flag_values": values, "module_name": _EVERY_SCRIPT}
        flags.DEFINE_boolean("debug", False, "Shows where an error came from.", **where)
        flags.DEFINE_string("compilation_cache", "auto", FLAG_HELP, **where)
        flags.DEFINE_boolean("vectors", False, vector_pages.FLAG_HELP, **where)
    try:
        values.unparse_flags()
        for name in values:
            values[name].unparse()
        if any(a in ("-h", "--help", "-help", "--helpfull", "--helpshort") for a in arguments):
            say(explained(full="--helpfull" in arguments))
            return 0
        _parse(values, arguments)
        with (
            compilation_cache(str(values["compilation_cache"].value)),
            vector_pages.vectors(bool(values["vectors"].value)),
            loading_said(say),
        ):
            _join_others(values)
            main()
    except KeyboardInterrupt as error:
        return _stopped(error)
    except BrokenPipeError:
        return EXIT_PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 (the last resort: no traceback for a user)
        if "debug" in values and (values["debug"].value or "--debug" in arguments):
            traceback.print_exc()
        status, message = _outcome(error, resumes="resume" in values)
        if not (status == EXIT_INCOMPLETE and is_follower()):
            sys.stderr.write(f"error: {message}{_hints(error)}\n")
        return status
    return 0


def _has_others(values: flags.FlagValues) -> bool:
    """Whether the flags say that the process is one of several."""
    return "coordinator" in values and values["coordinator"].value is not None


def _join_others(values: flags.FlagValues) -> None:
    """Makes this process one of several, where the flags say so."""
    if "coordinator" in values:
        settings = settings_from_flags(ProcessSettings, values)
        if settings.coordinator is not None:
            from data_generation.scripts.joining import join

            join(settings)
            check_same_flags(
                {
                    name: _without_folder(values[name].value)
                    for name in values
                    if name not in _OF_ONE_PROCESS
                }
            )
    if "runs_dir" in values:
        values["runs_dir"].value = own_place(str(values["runs_dir"].value))


def _without_folder(value: Any) -> str:
    """A flag's value; of a path its last part: another machine may have it elsewhere."""
    return repr(Path(value).name if isinstance(value, str) and os.sep in value else value)


def _hints(error: BaseException) -> str:
    """What is to be said after its message; other libraries write notes of their own."""
    notes = getattr(error, "__notes__", ())
    return "".join(f"; {escaped(note)}" for note in notes if isinstance(note, Hint))


def _outcome(error: Exception, *, resumes: bool) -> tuple[int, str]:
    """Exit status and message of what ended a script, which may have a flag to go on."""
    message = one_line(error)
    if isinstance(error, Incomplete):
        return EXIT_INCOMPLETE, message
    if isinstance(error, OutputError):
        return EXIT_NO_OUTPUT, message
    # JAX's class of errors has several names, and JAX may not have been imported.
    if Group.current is not None and re.match(r"\w+: .*(gloo|nccl|coordination)", message, re.I):
        return EXIT_OTHER_ENDED, f"another process has ended, and the run with it ({message})"
    if isinstance(error, MemoryError) or message.startswith("RESOURCE_EXHAUSTED"):
        return EXIT_BAD_INPUT, f"not enough memory for what these settings ask for ({message})"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        whole = f"{message}; what was written before is whole"
        more = ", and --resume continues a run once there is room" if resumes else ""
        return EXIT_BAD_INPUT, whole + more
    if isinstance(error, ValueError | OSError | ImportError | flags.Error):
        return EXIT_BAD_INPUT, message
    return EXIT_BUG, (
        f"{type(error).__name__}: {message}; this is a bug in jkonet-diffusions, run again with "
        "--debug to see where"
    )


def one_line(error: BaseException) -> str:
    """An error's message on one line, flags spelled as the help spells them."""
    text = escaped(" ".join(str(error).split())) or type(error).__name__
    if isinstance(error, flags.Error):
        text = re.sub(r"--\w+", lambda m: m[0].replace("_", "-"), text)
        text = re.sub(
            r"\('Non-boolean argument to boolean flag', (.*)\)", r"true or false, not \1", text
        )
    return text if len(text) <= _MOST_MESSAGE else f"{text[: _MOST_MESSAGE - 3]}..."


class _IntParser(flags.IntegerParser):
    """Whole numbers as people write them; absl also takes `1_0`, `0x10` and digits of every script."""

    def convert(self, argument: Any) -> int:
        return plain_int(argument) if isinstance(argument, str) else super().convert(argument)


class _FloatParser(flags.FloatParser):
    """Numbers, likewise."""

    def convert(self, argument: Any) -> float:
        return plain_float(argument) if isinstance(argument, str) else super().convert(argument)


_PARTS: dict[type, Callable[[str], Any]] = {int: plain_int, float: plain_float, str: str}


class _ListParser(flags.ArgumentParser):
    """`0,1,2` as a tuple."""

    syntactic_help = "a comma separated list"

    def __init__(self, kind: type, words: Sequence[str] = ()):
        super().__init__()
        self.kind, self.words = kind, words

    def parse(self, argument: Any) -> tuple:
        if not isinstance(argument, str):
            return tuple(argument)
        try:
            parse = _PARTS[self.kind]
            return tuple(parse(part) for part in argument.split(",") if part.strip())
        except ValueError:
            raise ValueError(f"each of {argument!r} must be {self.kind.__name__}") from None

    def flag_type(self) -> str:
        return f"{_choices(self.words) or self.kind.__name__},..."


class _TextParser(flags.ArgumentParser):
    """Text as it is; words are checked by the settings, which name the near misses."""

    def __init__(self, words: Sequence[str] = ()):
        super().__init__()
        self.words = words

    def flag_type(self) -> str:
        return _choices(self.words) or "string"


def _choices(words: Sequence[str]) -> str:
    """What one may be, as the help writes it."""
    return f"{{{','.join(words)}}}" if words else ""


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None


def _kind(hint: Any) -> tuple[Any, tuple[str, ...]]:
    """The scalar type, or (type,) of a tuple, and the accepted words."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [h for h in get_args(hint) if h is not type(None)]
        if all(get_origin(h) is Literal for h in kinds):
            return str, tuple(word for h in kinds for word in get_args(h))
        (hint,) = kinds
    if get_origin(hint) is Literal:
        return str, get_args(hint)
    if get_origin(hint) is tuple:
        return (get_args(hint)[0],), ()
    if hint not in (int, float, str, bool):
        raise TypeError(f"no flag can hold a {hint}")
    return hint, ()


def _parse(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    for argument in arguments:
        # Python spells bytes that it cannot decode as surrogates, which no file can hold as text.
        if any("\ud800" <= c <= "\udfff" for c in argument):
            encoding = sys.getfilesystemencoding()
            raise UsageError(
                f"{argument!r} is no text in {encoding}; names that are not ASCII need a locale of "
                "UTF-8, or PYTHONUTF8=1"
            )
    rest = values(["", *_underscored(values, arguments)])[1:]
    if values["vectors"].value and "plots" in values and not values["plots"].value:
        raise UsageError("--vectors is of pictures, of which --noplots draws none")
    if rest:
        raise UsageError(f"unexpected argument {rest[0]!r}; every option is a flag, --name=value")


def _underscored(values: flags.FlagValues, arguments: Sequence[str]) -> list[str]:
    """The arguments with flag names as Python has them; unknown flags are refused."""
    result = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--" or not re.match(r"--?[A-Za-z]", argument):
            result.append(argument)
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        plain = name.replace("-", "_")
        negated = plain.removeprefix("no").removeprefix("_")
        if plain in values:
            result.append(f"--{plain}{equals}{value}")
            if not equals and not values[plain].boolean:
                # The value is the next argument, whatever it looks like.
                result.extend([word] if (word := next(remaining, None)) is not None else [])
        elif plain.startswith("no") and negated in values and values[negated].boolean:
            if equals:
                raise UsageError(f"--{name} takes no value, got {value!r}")
            result.append(f"--no{negated}")
        elif plain in ("flagfile", "undefok"):
            result.append(argument)
            if plain == "flagfile" and os.path.exists(value) and not os.path.isfile(value):
                raise UsageError(f"--flagfile={value} is not a file")
        else:
            known = [flag.replace("_", "-") for flag in values]
            near = difflib.get_close_matches(plain.replace("_", "-"), known, n=3, cutoff=0.7)
            hint = (
                f"; did you mean {' or '.join('--' + n for n in near)}?"
                if near
                else " (see --help)"
            )
            raise UsageError(f"unknown flag --{name}{hint}")
    return result


def script_module(name: str) -> types.ModuleType:
    """The module that `python -m NAME` runs: of a package, its `__main__`."""
    module = importlib.import_module(name)
    return importlib.import_module(f"{name}.__main__") if hasattr(module, "__path__") else module


_COMMAND: contextvars.ContextVar[str] = contextvars.ContextVar("command", default="")


@contextlib.contextmanager
def as_command(name: str) -> Iterator[None]:
    """Within it a script is a command of another one, and its help says so."""
    token = _COMMAND.set(name)
    try:
        yield
    finally:
        _COMMAND.reset(token)


def _program() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    started = os.path.basename(sys.argv[0])
    if spec is not None:
        started = f"python -m {spec.name.removesuffix('.__main__')}"
    return f"{started} {_COMMAND.get()}".rstrip()
