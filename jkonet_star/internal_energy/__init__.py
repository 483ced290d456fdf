"""The weight beta of the internal energy, from the laws of the snapshots."""
