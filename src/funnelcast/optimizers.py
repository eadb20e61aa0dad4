"""What moves the weights: one optimizer for the embedding tables, fused Adam for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from funnelcast.config import EmbeddingOptimizer, Experiment
from funnelcast.layers import FeatureEmbedding, FunnelModel
from funnelcast.native import lazy_adam_rows, sum_by_row, usable

__all__ = ["LARGE_TABLE", "LazyAdam", "Optimizers", "RowwiseAdagrad", "build_optimizers", "merge_rows"]

# `auto`: from this many ids on, a dense update of the table costs more than the forward and backward of most models.
LARGE_TABLE = 1 << 18


def merge_rows(gradient: Tensor) -> Tensor:
    """Add up what a sparse gradient holds for the same row, so that every row stands there once.

    Args:
        gradient: sparse [n_ids, D] with one sparse dimension.

    Returns:
        The same gradient with every row once, in any order; torch takes it for coalesced.

    Example:
        >>> table = torch.zeros(4, 1, requires_grad=True)
        >>> nn.functional.embedding(torch.tensor([2, 2]), table, sparse=True).sum().backward()
        >>> merge_rows(table.grad).values().tolist()
        [[2.0]]
    """
    if gradient.is_coalesced():
        return gradient
    values = gradient._values()
    if usable(values):
        rows, sums = sum_by_row(gradient._indices()[0], values, len(gradient))
    else:  # half the time of Tensor.coalesce, which sorts with the values in tow
        rows, places = torch.unique(gradient._indices()[0], return_inverse=True)
        sums = values.new_zeros(len(rows), *values.shape[1:]).index_add_(0, places, values)
    return torch.sparse_coo_tensor(rows[None], sums, gradient.shape, is_coalesced=True, check_invariants=False)


class _RowOptimizer(Optimizer):
    """Base of optimizers that touch only the rows for which a sparse gradient holds a value."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002  no closures
        """Move the rows of the last batch.

        Args:
            closure: always None.

        Raises:
            ValueError: a gradient is dense.
        """
        with torch.no_grad():
            for group in self.param_groups:
                for table in group["params"]:
                    if table.grad is not None:
                        if not table.grad.is_sparse:
                            raise ValueError(f"{type(self).__name__} should get sparse gradients, received a dense one")
                        gradient = merge_rows(table.grad)
                        self._move(group, table, gradient.indices()[0], gradient.values())

    def _move(self, group: dict[str, Any], table: Tensor, rows: Tensor, gradient: Tensor) -> None:
        """Update table[rows] from their gradient [n, D]."""
        raise NotImplementedError


class LazyAdam(_RowOptimizer):
    """Adam on the rows of a batch alone: rows that no row of the batch names keep their weights and their moments.

    m_r = b1 m_r + (1 - b1) g_r,  v_r = b2 v_r + (1 - b2) g_r^2,
    w_r = w_r - lr m_r / (1 - b1^t) / (sqrt(v_r / (1 - b2^t)) + eps)  for the rows r of step t's batch.

    It equals Adam as long as every row is in every batch. Otherwise Adam goes on moving a row by its old moments in
    steps that do not name it, and decays them; weight decay, too, acts here on the rows of the batch alone.

    Args:
        params: tables with sparse gradients, float32 or float64.
        lr: step size > 0.
        betas: decay of the two moments, in [0, 1).
        eps: > 0, added to the root.
        weight_decay: L2 term >= 0.

    Source: Kingma & Ba 2015, "Adam"; its lazy form is that of `torch.optim.SparseAdam`.

    Example:
        >>> table = nn.Parameter(torch.zeros(3, 1))
        >>> nn.functional.embedding(torch.tensor([1]), table, sparse=True).sum().backward()
        >>> LazyAdam([table], lr=0.5).step()
        >>> [round(value, 6) for value in table.detach().flatten().tolist()]
        [0.0, -0.5, 0.0]
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _move(self, group: dict[str, Any], table: Tensor, rows: Tensor, gradient: Tensor) -> None:
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), group["betas"]
        if usable(gradient) and table.is_contiguous():
            lazy_adam_rows(
                rows,
                gradient,
                table,
                state["exp_avg"],
                state["exp_avg_sq"],
                betas=group["betas"],
                step_size=group["lr"] / (1 - beta1**step),
                root_scale=(1 - beta2**step) ** -0.5,
                eps=group["eps"],
                decay=group["weight_decay"],
            )
            return
        if group["weight_decay"]:
            gradient = gradient.add(table.index_select(0, rows), alpha=group["weight_decay"])
        first = state["exp_avg"].index_select(0, rows).lerp_(gradient, 1 - beta1)
        second = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        root = second.sqrt_().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
        table.index_add_(0, rows, first.div_(root), alpha=-group["lr"] / (1 - beta1**step))


class RowwiseAdagrad(_RowOptimizer):
    """Adagrad with one accumulator a row, on the rows of a batch alone: an eighteenth of Adam's state at D = 18.

    a_r = a_r + mean_d(g_rd^2),  w_r = w_r - lr g_r / (sqrt(a_r) + eps).

    Args:
        params: tables with sparse gradients, float32 or float64.
        lr: step size > 0; Adagrad wants a larger one than Adam, such as 0.02.
        eps: > 0, added to the root.
        weight_decay: L2 term >= 0 on the rows of the batch.

    Source: Duchi et al. 2011, "Adaptive subgradient methods"; row-wise as in Mudigere et al. 2022, "Software-hardware
    co-design for fast and scalable training of deep learning recommendation models", section 4.1.4.

    Example:
        >>> table = nn.Parameter(torch.zeros(2, 2))
        >>> nn.functional.embedding(torch.tensor([1]), table, sparse=True).sum().backward()
        >>> RowwiseAdagrad([table], lr=0.5).step()
        >>> table.detach().tolist()
        [[0.0, 0.0], [-0.5, -0.5]]
    """

    def __init__(self, params: Iterable[Tensor], lr: float, eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay})

    def _move(self, group: dict[str, Any], table: Tensor, rows: Tensor, gradient: Tensor) -> None:
        state = self.state[table]
        if not state:
            state["sum"] = table.new_zeros(len(table))
        if group["weight_decay"]:
            gradient = gradient.add(table.index_select(0, rows), alpha=group["weight_decay"])
        total = state["sum"].index_select(0, rows).add_(gradient.square().mean(dim=1))
        state["sum"].index_copy_(0, rows, total)
        table.index_add_(0, rows, gradient / total.sqrt_().add_(group["eps"])[:, None], alpha=-group["lr"])


class Optimizers:
    """The optimizers of a training, driven as one.

    Args:
        members: the optimizers; together they hold every parameter once.
    """

    def __init__(self, members: Sequence[Optimizer]) -> None:
        self.members = tuple(members)
        self._rates = [group["lr"] for group in self.groups]

    @property
    def groups(self) -> list[dict[str, Any]]:
        """All groups of parameters."""
        return [group for member in self.members for group in member.param_groups]

    def scale_learning_rate(self, factor: float) -> None:
        """Set every group's step size to its first one times a factor >= 0."""
        for group, rate in zip(self.groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for member in self.members:
            member.zero_grad(set_to_none=True)

    def clip(self, largest: float) -> Tensor:
        """Scale all gradients down so that their joint norm is at most `largest`; returns the norm [] before.

        Rows that a batch names twice count once, with the sum of their gradients, as in a dense gradient.
        """
        gradients = []
        for group in self.groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    if parameter.grad.is_sparse:
                        parameter.grad = merge_rows(parameter.grad)
                    gradients.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
        norm = nn.utils.get_total_norm(gradients)
        factor = (largest / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor)
        return norm

    def step(self) -> None:
        """Move all parameters."""
        for member in self.members:
            member.step()


def build_optimizers(model: FunnelModel, experiment: Experiment) -> Optimizers:
    """Build what an experiment trains a model with, and let its embeddings make the gradients that this needs.

    Args:
        model: on its device.
        experiment: names the embedding's optimizer and the step sizes.
    """
    train, chosen = experiment.train, experiment.optimizer
    layers = [module for module in model.modules() if isinstance(module, FeatureEmbedding)]
    on_gpu = any(layer.table.is_cuda for layer in layers)
    large = sum(len(layer.table) for layer in layers) >= LARGE_TABLE
    kind: EmbeddingOptimizer | Literal["auto"] = chosen.embedding
    if kind == "auto":  # a GPU writes the whole table faster than it sorts a batch's ids
        kind = "lazy_adam" if large and not on_gpu else "adam"
    tables = [layer.table for layer in layers]
    for layer in layers:
        layer.sparse = kind != "adam"
    known = {id(table) for table in tables}
    others = [parameter for parameter in model.parameters() if id(parameter) not in known]
    rate = train.learning_rate if chosen.embedding_learning_rate is None else chosen.embedding_learning_rate
    decay = train.weight_decay
    members: list[Optimizer] = []
    if kind == "adam":
        groups: list[dict[str, Any]] = [{"params": tables, "lr": rate}, {"params": others}]
        groups = [group for group in groups if group["params"]]
        return Optimizers([torch.optim.Adam(groups, lr=train.learning_rate, weight_decay=decay, fused=True)])
    if kind == "lazy_adam":
        members.append(LazyAdam(tables, lr=rate, weight_decay=decay))
    elif kind == "sparse_adam":
        members.append(torch.optim.SparseAdam(tables, lr=rate))
    else:
        members.append(RowwiseAdagrad(tables, lr=rate, weight_decay=decay))
    if others:
        members.append(torch.optim.Adam(others, lr=train.learning_rate, weight_decay=decay, fused=True))
    return Optimizers(members)
