"""Learning the energy of a population from its snapshots."""
