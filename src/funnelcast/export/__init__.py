"""A trained run -> a bundle: one file a target, each of which writes a model and opens it again."""

from funnelcast.export.write import Exporter, export_run
from funnelcast.registry import import_siblings

__all__ = ["Exporter", "export_run"]

import_siblings(__name__, __path__)
