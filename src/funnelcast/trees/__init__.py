"""Boosted trees, the outside row of every comparison, one library a file; importing this package registers them all."""

from funnelcast.registry import import_siblings

import_siblings(__name__, list(__path__))
