"""`funnelcast doctor`: what this machine has."""

from __future__ import annotations

from rich.table import Table

from funnelcast.cli.shell import app, console


@app.command()
def doctor() -> None:
    """Show versions, cores and devices, and whether a tiny training step works here."""
    import torch

    from funnelcast.native import gpu_state, native_state
    from funnelcast.run import environment

    table = Table("what", "value")
    for key, value in environment().items():
        table.add_row(key, str(value))
    table.add_row("compiled", native_state().line.removeprefix("native kernels: "))
    table.add_row("on GPUs", gpu_state().line)
    table.add_row("cuda", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.Adam([weight], fused=True)
    weight.square().sum().backward()
    optimizer.step()
    table.add_row("fused Adam", "works" if bool((weight < 1).all()) else "broken")
    console.print(table)
