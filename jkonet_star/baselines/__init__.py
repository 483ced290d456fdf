"""Rivals: other objectives for the same energies, written from the formulas of their papers."""
