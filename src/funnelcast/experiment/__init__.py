"""Controlled experiments: who sees what, how sure a difference is, and a simulated week with known truth."""
