"""`funnelcast serve`: bundles -> a scoring service, without PyTorch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from funnelcast.cli.shell import app
from funnelcast.errors import ConfigError

_NEEDED = ("starlette", "uvicorn", "httptools", "uvloop", "msgspec", "prometheus_client", "onnxruntime")


@app.command()
def serve(
    bundles: Annotated[list[Path], typer.Argument(help="Folders that `export` wrote; several are variants.")],
    config: Annotated[Path | None, typer.Option("--config", help="serve.toml; without it, defaults.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; overrides the file.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Overrides the file; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Processes; overrides the file.")] = None,
) -> None:
    """Answer scoring requests over HTTP until SIGTERM."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        wanted = f"the scoring service needs {', '.join(missing)}, which is not installed"
        raise ConfigError(f"{wanted}; install it by: pip install 'funnelcast[serve]'")
    from funnelcast.serving.http.run import serve as run
    from funnelcast.serving.http.settings import load_settings

    settings = load_settings(config)
    given = {name: value for name, value in (("host", host), ("port", port), ("workers", workers)) if value is not None}
    run(bundles, settings.model_copy(update={"server": settings.server.model_copy(update=given)}))
