"""What is learned: potentials and interactions, as networks or with features."""
