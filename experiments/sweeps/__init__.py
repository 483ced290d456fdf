"""Many runs side by side: `python -m experiments.sweep`."""
