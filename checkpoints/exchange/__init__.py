"""Models for others: tensors, programs that need no part of this project, and a card."""
