"""Everything that makes or reads data. Importing the package itself loads nothing heavy."""

from diffusions.late_imports import names_on_first_use

__getattr__, __dir__, __all__ = names_on_first_use("data_generation")
