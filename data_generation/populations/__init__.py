"""Populations: simulated from a known energy, or read from files; split, written, drawn."""
