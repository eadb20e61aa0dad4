"""Checkpoints of a training: tensors in safetensors, everything else in JSON with the checksum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from funnelcast.errors import ArtifactError
from funnelcast.files import check_sha256, read_json, sha256, write_bytes, write_json

__all__ = [
    "load_checkpoint",
    "load_tensors",
    "optimizer_tensors",
    "restore_optimizer",
    "save_checkpoint",
    "save_tensors",
]


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors in one step and return the file's SHA-256.

    Args:
        path: the safetensors file; an existing one is replaced.
        tensors: by name, on any device.
    """
    write_bytes(path, save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}))
    return sha256(path)


def load_tensors(path: Path, expected_sha256: str) -> dict[str, Tensor]:
    """Read tensors onto the CPU after comparing the checksum.

    Args:
        path: the safetensors file.
        expected_sha256: the checksum its manifest states.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    check_sha256(path, expected_sha256)
    return dict(load_file(path))


def optimizer_tensors(optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """Flatten the state of optimizers to `optimizer.<optimizer number>.<parameter number>.<name>`.

    Args:
        optimizers: any whose state is made of tensors and whole numbers.
    """
    return {
        f"optimizer.{member}.{number}.{key}": torch.as_tensor(value)
        for member, optimizer in enumerate(optimizers)
        for number, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def restore_optimizer(optimizers: Sequence[Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took out.

    Args:
        optimizers: built over the same parameters in the same order.
        tensors: a checkpoint's tensors; others than the optimizers' are passed over.
    """
    states: list[dict[int, dict[str, Any]]] = [{} for _ in optimizers]
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, member, number, key = name.split(".", 3)
            whole = value.dim() == 0 and not value.is_floating_point()  # a count of steps that was no tensor
            states[int(member)].setdefault(int(number), {})[key] = value.item() if whole else value
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    average: nn.Module | None,
    optimizers: Sequence[Optimizer],
    state: Mapping[str, Any],
    loss_sum: Tensor,
) -> None:
    """Write a checkpoint; the former one stays valid until the new one is complete.

    Args:
        folder: the run's folder.
        model: its parameters and buffers are saved.
        average: so are those of its average, where there is one.
        optimizers: their moments are saved.
        state: where training stands, as JSON values.
        loss_sum: [] sum of the losses since the last line of the training curve.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    tensors |= optimizer_tensors(optimizers)
    tensors |= {"random_state": torch.get_rng_state(), "loss_sum": loss_sum}
    path = folder / f"checkpoint-{state['step']}.safetensors"
    checksum = save_tensors(path, tensors)
    write_json(folder / "checkpoint.json", {"tensors": path.name, "sha256": checksum, "state": dict(state)})
    for old in folder.glob("checkpoint-*.safetensors"):
        if old != path:
            old.unlink()


def load_checkpoint(
    folder: Path, model: nn.Module, average: nn.Module | None, optimizers: Sequence[Optimizer]
) -> tuple[dict[str, Any], Tensor]:
    """Put a model, its optimizer and the random state back to where the last checkpoint was written.

    Args:
        folder: the run's folder.
        model: of the same configuration.
        average: its average, where there is one.
        optimizers: built over the model's parameters.

    Returns:
        The state that `save_checkpoint` was given, and the loss sum.

    Raises:
        ArtifactError: there is no checkpoint, it is damaged, or it is of another model.
    """
    record = read_json(folder / "checkpoint.json", "a checkpoint", "tensors", "sha256", "state")
    tensors = load_tensors(folder / record["tensors"], record["sha256"])
    try:
        for prefix, module in (("model.", model), ("average.", average)):
            if module is not None:
                module.load_state_dict({n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})
    except RuntimeError as error:
        finding = " ".join(str(error).split())
        raise ArtifactError(
            f"{folder / record['tensors']}: should hold this model's weights, received: {finding}"
        ) from error
    restore_optimizer(optimizers, tensors)
    torch.set_rng_state(tensors["random_state"])
    return dict(record["state"]), tensors["loss_sum"]
