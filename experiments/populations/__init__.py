"""Energies of populations: their settings, training, assessment and figures."""
