"""The experiments of the JKOnet* paper: which runs each consists of, and what its results show."""
