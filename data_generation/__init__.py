"""Everything that makes or reads data. Importing the package itself loads nothing heavy."""
