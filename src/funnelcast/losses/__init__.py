"""One file a loss; importing this package registers them all."""

from funnelcast.registry import import_siblings

import_siblings(__name__, list(__path__))
