"""How an energy is learned: one interface, one driver, and every solver."""
