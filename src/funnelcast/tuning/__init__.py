"""Search for the options of experiments, with an equal budget each: many processes, one shared study an experiment."""

from funnelcast.tuning.tune import tune

__all__ = ["tune"]
