"""Run the service: one process, or several that share a port."""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from funnelcast.errors import ConfigError
from funnelcast.serving.http.app import create_app
from funnelcast.serving.http.measure import log_line, log_to_stderr
from funnelcast.serving.http.protocol import GuardedProtocol
from funnelcast.serving.http.service import Service
from funnelcast.serving.http.settings import Settings
from funnelcast.serving.http.variants import Variants

__all__ = ["serve"]

_CONNECTIONS = 2  # taken in a turn of the loop: clients in a crowd wait for fewer turns, and the others hardly feel it
_OWN_FILES = 128  # open besides connections: listeners, logs, libraries, a bundle that is read
_SWITCH = 0.002  # seconds after which a scoring thread lets others run; most need less, and a pause costs them
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG of prctl.h
_METRICS = "PROMETHEUS_MULTIPROC_DIR"


class _Maker:
    """Makes the application, in each worker anew.

    Args:
        folders: the bundles.
        settings: of the service.
    """

    def __init__(self, folders: Sequence[Path], settings: Settings) -> None:
        self.folders, self.settings = folders, settings

    def __call__(self) -> Starlette:
        sys.setswitchinterval(_SWITCH)
        if self.settings.server.workers > 1:
            _end_with_parent()
        log_to_stderr()
        variants = Variants.load(self.folders, self.settings)
        gc.collect()
        gc.freeze()  # looking through modules and dictionaries for garbage takes 30 ms, in which nobody is answered
        return create_app(Service(variants, self.settings))


def serve(folders: Sequence[Path], settings: Settings) -> None:
    """Serve bundles until SIGTERM or SIGINT; what was accepted is answered first.

    Args:
        folders: the bundles, each a variant with the name of its folder.
        settings: of the service.

    Raises:
        ConfigError: a setting or a key is wrong, or the address cannot be bound.
        ArtifactError: a bundle is damaged.
    """
    _check_tls(settings)
    make = _Maker(folders, settings)
    if settings.server.workers == 1:
        app = make()
        with _listening(settings) as sockets:
            uvicorn.Server(_config(app, settings)).run(sockets=sockets)
        return
    Service(Variants.load(folders, settings), settings)  # what is wrong is found here
    log_to_stderr()
    own = None if _METRICS in os.environ else tempfile.mkdtemp(prefix="funnelcast-metrics-")
    os.environ.setdefault(_METRICS, own or "")
    try:
        with _listening(settings) as sockets:
            Multiprocess(_config(make, settings), sockets=sockets).run()
    finally:
        if own is not None:
            del os.environ[_METRICS]
            shutil.rmtree(own)


def _config(app: Starlette | _Maker, settings: Settings) -> uvicorn.Config:
    server = settings.server
    return uvicorn.Config(
        app,
        factory=isinstance(app, _Maker),
        workers=server.workers,
        loop="uvloop",
        http=partial(  # type: ignore[arg-type]
            GuardedProtocol, head_seconds=server.header_seconds, body_seconds=server.body_seconds
        ),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nothing here asks where a request came from
        server_header=False,
        ssl_certfile=server.certificate,
        ssl_keyfile=server.private_key,
        limit_concurrency=_connections(server.connections) + 1,  # uvicorn refuses the one that reaches it
        timeout_keep_alive=server.keep_alive_seconds,
        timeout_graceful_shutdown=server.drain_seconds,
    )


def _connections(wanted: int) -> int:
    """Have the system allow the files that connections are; where it does not, take what it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OWN_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    connections = max(1, allowed - _OWN_FILES)
    if connections < wanted:
        log_line("few_files", level=logging.WARNING, open_files=allowed, connections=connections, wanted=wanted)
    return connections


def _check_tls(settings: Settings) -> None:
    """Find out that a certificate is wrong before anything listens."""
    certificate, key = settings.server.certificate, settings.server.private_key
    if certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError among them
        wanted = f"{certificate} and {key} should be a certificate and its key without a password, in PEM"
        raise ConfigError(f"{wanted}, received: {error}") from error


def _no_password() -> str:
    raise ValueError("a key with a password")


def _end_with_parent() -> None:
    """Get SIGTERM when the parent dies, however it does; Linux alone can."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "prctl"):
            library.prctl(_PARENT_DEATH, signal.SIGTERM)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:  # it died before the system could be asked
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _listening(settings: Settings) -> Iterator[list[socket.socket]]:
    """Listen, by several names of one socket, since a turn of the loop takes one connection of each."""
    with _listen(settings) as listener, ExitStack() as stack:
        yield [listener, *(stack.enter_context(listener.dup()) for _ in range(_CONNECTIONS - 1))]


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"the address {host}:{port} should be free and of this machine: {error.strerror}") from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # for connections, too; nobody else ends those whose client does not read
        unread = round(settings.server.keep_alive_seconds * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread)
    listener.set_inheritable(True)
    tls = settings.server.certificate is not None
    log_line("listening", host=host, port=listener.getsockname()[1], workers=settings.server.workers, tls=tls)
    return listener
