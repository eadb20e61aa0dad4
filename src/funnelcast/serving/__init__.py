"""Scoring with an exported bundle, in a process that never loads PyTorch."""

from funnelcast.serving.bundle import Bundle
from funnelcast.serving.scorer import Scored

__all__ = ["Bundle", "Scored"]
