"""Is a difference between two models more than chance: over seeds, over the scored rows, over a whole table."""
