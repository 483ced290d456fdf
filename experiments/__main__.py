"""The command `jkonet`: what there is, and one door to every script.

`jkonet train ...` is `python -m experiments.train ...`, and `python -m experiments` is `jkonet`.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from data_generation.scripts.command_line import as_command, run_script, say
from diffusions.releases import OWN, release_of


class Command(NamedTuple):
    """A script.

    Attributes:
        module: with `run`, `FLAGS` and `EXAMPLE`.
        about: what it does, in a line.
    """

    module: str
    about: str

    @property
    def example(self) -> str:
        """The arguments of the first call in `EXAMPLE`."""
        first = importlib.import_module(self.module).EXAMPLE.strip().splitlines()[0]
        return first[first.index(" --") + 1 :]


SYSTEMS: dict[str, dict[str, Command]] = {
    "Populations (JKOnet*)": {
        "data": Command(
            "data_generation.__main__", "simulates populations, or reads yours, and couples them"
        ),
        "train": Command("experiments.train", "learns the energy of a population"),
        "evaluate": Command("experiments.evaluate", "judges a run again, or on other data"),
        "identify": Command("experiments.identify", "says what the data can tell of the energy"),
        "report": Command("experiments.report", "makes a page of a run"),
        "annotate": Command(
            "experiments.annotate", "writes an energy to the cells of an .h5ad file"
        ),
        "sweep": Command(
            "experiments.sweep", "a grid of data, solvers and seeds, here or on SLURM"
        ),
        "reproduce": Command("experiments.reproduce", "the published figures and tables"),
    },
    "Information-theoretic diffusion": {
        "information-theoretic": Command(
            "experiments.information_theoretic.__main__", "log densities from denoising errors"
        )
    },
    "Sparse rank-one diffusion": {
        "sparse-localization": Command(
            "experiments.sparse_localization.__main__", "where diffusion sampling fails"
        )
    },
    "The linear denoiser": {
        "linear-denoiser": Command(
            "experiments.linear_denoiser.__main__", "when a model memorises, in closed form"
        ),
        "learned-denoiser": Command("experiments.learned_denoiser", "the same of a network"),
    },
    "Sparsity-aware diffusion": {
        "sparse-pixels": Command(
            "experiments.sparse_pixels.__main__", "whole images from a fifth of their pixels"
        )
    },
    "Models for others and of others": {
        "export": Command(
            "checkpoints.export", "a model as safetensors, and as programs for JAX alone"
        ),
        "import-torch": Command("checkpoints.import_torch", "weights that PyTorch trained"),
    },
}
COMMANDS = {name: own for system in SYSTEMS.values() for name, own in system.items()}
SHELLS = ("bash", "zsh")


def overview() -> str:
    """All systems and their commands, with an example of each."""
    lines = [f"{OWN} {release_of()}: learning diffusion with JAX", ""]
    for system, commands in SYSTEMS.items():
        lines.append(system)
        for name, own in commands.items():
            lines += [f"  {name:22} {own.about}", f"{'':24} jkonet {name} {own.example}"]
        lines.append("")
    lines.append("jkonet COMMAND --help says more; docs/quick_start.md begins at the beginning.")
    return "\n".join(lines)


def flags_of(command: Command) -> list[str]:
    """The flags of a script as they are completed: `--name=`, and `--name` of a switch."""
    found = []
    values = importlib.import_module(command.module).FLAGS
    for name in sorted(values):
        spelled = f"--{name.replace('_', '-')}"
        found.append(spelled if values[name].boolean else f"{spelled}=")
    return found


def completion(shell: str) -> str:
    """What a shell evaluates to complete commands and flags.

    Raises:
        ValueError: another shell.
    """
    if shell not in SHELLS:
        raise ValueError(f"--completion must be one of {', '.join(SHELLS)}, got {shell!r}")
    cases = [f'    {name}) words="{" ".join(flags_of(own))}" ;;' for name, own in COMMANDS.items()]
    begin = ["autoload -U +X bashcompinit && bashcompinit"] if shell == "zsh" else []
    return "\n".join(
        [
            *begin,
            "_jkonet() {",
            '  local words current="${COMP_WORDS[COMP_CWORD]}"',
            f'  words="{" ".join(COMMANDS)} --version --help"',
            '  [ "$COMP_CWORD" -gt 1 ] && case "${COMP_WORDS[1]}" in',
            *cases,
            '    *) words="" ;;',
            "  esac",
            '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o default -o nospace -F _jkonet jkonet",
        ]
    )


def run(argv: Sequence[str] | None = None) -> int:
    """The console script; its exit status is that of the command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    first = arguments[0] if arguments else "--help"
    if first in COMMANDS:
        with as_command(first):
            return importlib.import_module(COMMANDS[first].module).run(arguments[1:])
    return run_script(lambda: say(_answer(first)), flags.FlagValues(), argv=[])


def _answer(asked: str) -> str:
    """To what is no command.

    Raises:
        ValueError: it is nothing else either.
    """
    if asked in ("--help", "-h", "help"):
        return overview()
    if asked == "--version":
        return f"{OWN} {release_of()}"
    if asked.startswith("--completion="):
        return completion(asked.partition("=")[2])
    near = difflib.get_close_matches(asked.lstrip("-").replace("_", "-"), COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
    raise ValueError(f"there is no command {asked!r}; {hint}")


if __name__ == "__main__":
    raise SystemExit(run())
