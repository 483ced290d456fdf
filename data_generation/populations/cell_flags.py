"""What `jkonet_star.cells` says of its arguments, as the command line has them."""

import re

_FLAGS = {
    "use_rep": "--representation",
    "time_key": "--time-key",
    "time_map": "--time-map",
    "mass_key": "--mass-key",
    "n_components": "--n-components",
}
# As words of a message; what is quoted in it are names of the data.
_ARGUMENT = re.compile(rf"(?<!['\w-])({'|'.join(_FLAGS)})(?!['\w])")
_FIRST_OF_MAP = re.compile(r"time_map=\{(.+?): 0, \.\.\.\}")


def with_flags(text: str) -> str:
    """The text with flags in the place of arguments."""
    text = _FIRST_OF_MAP.sub(r"time_map=\1=0,...", text)
    return _ARGUMENT.sub(lambda found: _FLAGS[found[1]], text)
