"""Forecasts the probability of every step of a conversion funnel."""

__version__ = "0.1.0"
