"""A checkpoint puts everything back, bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from funnelcast.checkpoint import load_checkpoint, save_checkpoint
from funnelcast.errors import ArtifactError


def parts(width: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(width, 2)
    return model, torch.optim.Adam(model.parameters(), lr=0.1, fused=True)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()


def test_model_optimizer_and_random_state_come_back(tmp_path: Path) -> None:
    model, optimizer = parts()
    steps(model, optimizer, 3)
    save_checkpoint(tmp_path, model, None, [optimizer], {"step": 3, "best": 0.1 + 0.2}, torch.tensor(1.5))
    steps(model, optimizer, 4)
    unbroken = [p.detach().clone() for p in model.parameters()]

    model, optimizer = parts()
    state, loss_sum = load_checkpoint(tmp_path, model, None, [optimizer])
    assert state == {"step": 3, "best": 0.1 + 0.2} and loss_sum.item() == 1.5
    steps(model, optimizer, 4)
    assert all(torch.equal(a, b) for a, b in zip(unbroken, model.parameters(), strict=True))


def test_only_the_newest_checkpoint_stays(tmp_path: Path) -> None:
    model, optimizer = parts()
    for step in (1, 2):
        steps(model, optimizer, 1)
        save_checkpoint(tmp_path, model, None, [optimizer], {"step": step}, torch.tensor(0.0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-2.safetensors", "checkpoint.json"]


def test_another_model_is_refused(tmp_path: Path) -> None:
    model, optimizer = parts()
    steps(model, optimizer, 1)
    save_checkpoint(tmp_path, model, None, [optimizer], {"step": 1}, torch.tensor(0.0))
    with pytest.raises(ArtifactError, match=r"should hold this model's weights, received: .*size mismatch"):
        model, optimizer = parts(width=4)
        load_checkpoint(tmp_path, model, None, [optimizer])
