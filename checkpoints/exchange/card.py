"""The README of a model that hubs read: a header in YAML, then what somebody should know."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from checkpoints.exchange.programs import SUFFIX, Program
from checkpoints.place import TENSORS

_TAGS = ("jax", "flax", "diffusion")
_LOADED = {"energy": "load_energy", "network": "load_network"}
_SAYS = {
    "drift": "velocity of points x in a population: -grad V(x, t), the circulation where there is one, "
    "less the mean of grad U(x - y) over the particles y where there is an interaction",
    "potential": "V(x, t)",
    "network": "what the network returns of noised data and times; what that is says the description",
}


def readme(
    name: str,
    kind: str,
    *,
    body: str,
    told: Mapping[str, Any],
    programs: Mapping[str, Program],
) -> str:
    """A model card in Markdown.

    Args:
        name: of the model.
        kind: energy or network.
        body: what is known of it, in Markdown.
        told: its description, JSON.
        programs: beside it, by name.
    """
    header = {
        "library_name": "jkonet-diffusions",
        "tags": [*_TAGS, "optimal-transport" if kind == "energy" else "denoising"],
    }
    lines = ["---", yaml.safe_dump(header, sort_keys=False).strip(), "---", "", f"# {name}", ""]
    lines += [body.strip(), "", "## With this library", "", "```python"]
    lines += [f"from checkpoints import {_LOADED[kind]}", ""]
    lines += [f'{kind} = {_LOADED[kind]}("model{TENSORS}")', "```", ""]
    lines += ["## With JAX alone", "", "`pip install jax flatbuffers`", "", "```python"]
    lines += ["from pathlib import Path", "", "from jax import export", ""]
    for program in programs:
        lines.append(
            f'{program} = export.deserialize(bytearray(Path("{program}{SUFFIX}").read_bytes())).call'
        )
    lines += ["```", "", "| program | inputs | output | what it is |", "|---|---|---|---|"]
    for program, made in programs.items():
        lines.append(f"| `{program}` | {made.inputs} | {made.output} | {_SAYS[program]} |")
    if kind == "energy":
        lines += [
            "",
            "Points x, particles y and the time t, the last input, are in the data's units.",
        ]
    lines += ["", "## Description", "", "```json", json.dumps(told, indent=1), "```", ""]
    return "\n".join(lines)
