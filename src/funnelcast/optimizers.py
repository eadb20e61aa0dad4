"""What moves the weights: one optimizer for the embedding tables, fused Adam for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from funnelcast.config import EmbeddingOptimizer, Experiment
from funnelcast.layers import FeatureEmbedding, FunnelModel
from funnelcast.native import catch_up_rows, lazy_adam_rows, sum_by_row, usable

__all__ = ["LARGE_TABLE", "DeferredAdam", "LazyAdam", "Optimizers", "RowwiseAdagrad", "build_optimizers", "merge_rows"]

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


def _adam_on_rows(
    group: dict[str, Any], state: dict[str, Tensor], table: Tensor, rows: Tensor, gradient: Tensor
) -> None:
    """Do one step of Adam on table[rows]; the count of steps stands in the state."""
    step, (beta1, beta2), decay = float(state["step"]), group["betas"], group.get("weight_decay", 0.0)
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
            decay=decay,
        )
        return
    if decay:
        gradient = gradient.add(table.index_select(0, rows), alpha=decay)
    first = state["exp_avg"].index_select(0, rows).lerp_(gradient, 1 - beta1)
    second = state["exp_avg_sq"].index_select(0, rows).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    state["exp_avg"].index_copy_(0, rows, first)
    state["exp_avg_sq"].index_copy_(0, rows, second)
    root = second.sqrt_().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
    table.index_add_(0, rows, first.div_(root), alpha=-group["lr"] / (1 - beta1**step))


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
        _adam_on_rows(group, state, table, rows, gradient)


# Steps after which a row's moment has faded to 1e-5 and what is left of its tail no longer counts.
_TAIL_STEPS = 110


class DeferredAdam(_RowOptimizer):
    """Adam of all rows at the cost of a batch's rows: a row's old moments move it when it is needed.

    In a step whose batch does not name row r, Adam moves r by its fading moments. For the k steps that a row has missed
    since step s, with j = 1..k, a = sqrt(v_r) / sqrt(1 - b2^s) and d_j the decay of sqrt(v_r) with its correction,

    w_r = w_r - m_r sum_j lr_{s+j} b1^j / (1 - b1^{s+j}) / (a d_j + eps),  m_r = b1^k m_r,  v_r = b2^k v_r.

    The sum over j is a quadrature with two values of d that keeps the first four moments (Gauss); terms after 110 steps
    are below 1e-5 and are left out. `catch_up` brings rows to the present, and has to be called for the rows of a batch
    before they are read.

    Args:
        params: tables with sparse gradients, float32 or float64.
        lr: step size > 0.
        betas: decay of the two moments, in [0, 1); the first so small that 110 steps let a moment fade.
        eps: > 0, added to the root.

    Source: Kingma & Ba 2015, "Adam".

    Example:
        >>> table = nn.Parameter(torch.zeros(2, 1))
        >>> step = DeferredAdam([table], lr=0.5)
        >>> for row in (0, 1):
        ...     table.grad = None
        ...     nn.functional.embedding(torch.tensor([row]), table, sparse=True).sum().backward()
        ...     step.step()
        >>> step.catch_up(table)  # row 0 moves once more, by the moments of its only gradient
        >>> [round(value, 3) for value in table.detach().flatten().tolist()]
        [-0.835, -0.372]
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def catch_up(self, table: Tensor, rows: Tensor | None = None) -> None:
        """Bring rows of a table to the present.

        Args:
            table: one of this optimizer's.
            rows: whole numbers of any shape, possibly repeated; all rows where None.
        """
        (group,) = (group for group in self.param_groups if any(table is parameter for parameter in group["params"]))
        state = self.state[table]
        if not state:
            return
        present, last = int(state["step"]), state["last"]
        rows = torch.arange(len(table), device=table.device) if rows is None else rows.flatten().long()
        if usable(table) and table.is_contiguous():
            moments = (state["exp_avg"], state["exp_avg_sq"])
            numbers = {"present": present, "betas": group["betas"], "eps": group["eps"]}
            catch_up_rows(rows, table, *moments, last, state["tails"], **numbers)
            return
        since = last.index_select(0, rows).long()
        stale = (since < present).nonzero()[:, 0]
        # Rows that never had a gradient have no moments, and rows that are named twice get the same values twice.
        rows, since = rows[stale], since[stale]
        nodes = [column.to(table.dtype)[since, None] for column in self._nodes(table).unbind(1)]
        first, second = state["exp_avg"].index_select(0, rows), state["exp_avg_sq"].index_select(0, rows)
        (beta1, beta2), missed = group["betas"], (present - since).to(table.dtype)[:, None]
        root = second.sqrt().div_((1 - beta2 ** since.clamp(min=1).to(torch.float64)).sqrt().to(table.dtype)[:, None])
        low, high, low_weight, high_weight = nodes
        moved = first * (low_weight / (root * low + group["eps"]) + high_weight / (root * high + group["eps"]))
        with torch.no_grad():
            table.index_copy_(0, rows, table.index_select(0, rows) - moved)
        state["exp_avg"].index_copy_(0, rows, first * beta1**missed)
        state["exp_avg_sq"].index_copy_(0, rows, second * beta2**missed)
        last.index_fill_(0, rows, present)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; torch would turn all of it into the table's type.

        Args:
            state_dict: from `state_dict`.
        """
        super().load_state_dict(state_dict)
        tables = [table for group in self.param_groups for table in group["params"]]
        for number, saved in state_dict["state"].items():
            for key in ("last", "tails"):
                self.state[tables[number]][key] = saved[key].to(tables[number].device, copy=True)

    def _nodes(self, table: Tensor) -> Tensor:
        """Return [steps + 1, 4]: for rows last seen in each step, two values of d and their weights in the sum."""
        sums = self.state[table]["tails"][: int(self.state[table]["step"]) + 1]
        weight = sums[:, 0]
        some = weight > 0
        first, second, third = (torch.where(some, sums[:, i] / weight, 1.0) for i in (1, 2, 3))
        variance = (second - first.square()).clamp(min=0.0)
        spread = variance.sqrt().clamp(min=1e-9)  # where there is no variance, both nodes are the mean
        skew = (third - 3 * first * variance - first**3) / spread**3
        skew = torch.where(variance > 1e-12, skew, 0.0)
        half = (skew.square() / 4 + 1).sqrt()
        low, high = first + spread * (skew / 2 - half), first + spread * (skew / 2 + half)
        share = (skew / 2 + half) / (2 * half)  # of the lower node
        return torch.stack([low, high, weight * share, weight * (1 - share)], dim=1)

    def _move(self, group: dict[str, Any], table: Tensor, rows: Tensor, gradient: Tensor) -> None:
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
            state["last"] = torch.zeros(len(table), dtype=torch.int32, device=table.device)
            state["tails"] = torch.zeros(1024, 4, dtype=torch.float64, device=table.device)
        self.catch_up(table, rows)
        state["step"] += 1
        self._lengthen_tails(group, state)
        _adam_on_rows(group, state, table, rows, gradient)
        state["last"].index_fill_(0, rows, int(state["step"]))

    @staticmethod
    def _lengthen_tails(group: dict[str, Any], state: dict[str, Tensor]) -> None:
        """Add the present step to the sums of rows that were last seen in one of the steps before."""
        present = int(state["step"])
        if present + 1 >= len(state["tails"]):
            state["tails"] = torch.cat([state["tails"], torch.zeros_like(state["tails"])])
        (beta1, beta2), device = group["betas"], state["tails"].device
        since = torch.arange(max(1, present - _TAIL_STEPS), present, dtype=torch.float64, device=device)
        missed = present - since
        weight = group["lr"] * beta1**missed / (1 - beta1**present)
        decay = (beta2**missed * (1 - beta2**since) / (1 - beta2**present)).sqrt()
        added = torch.stack([weight, weight * decay, weight * decay**2, weight * decay**3], dim=1)
        state["tails"][max(1, present - _TAIL_STEPS) : present] += added


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
        layers: the embeddings whose tables are among the parameters.
    """

    def __init__(self, members: Sequence[Optimizer], layers: Sequence[FeatureEmbedding] = ()) -> None:
        self.members, self._layers = tuple(members), tuple(layers)
        self._rates = [group["lr"] for group in self.groups]

    @property
    def groups(self) -> list[dict[str, Any]]:
        """All groups of parameters."""
        return [group for member in self.members for group in member.param_groups]

    def scale_learning_rate(self, factor: float) -> None:
        """Set every group's step size to its first one times a factor >= 0."""
        for group, rate in zip(self.groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def before(self, ids: Tensor) -> None:
        """Make the rows of a batch ready to be read.

        Args:
            ids: [B, W] field ids, as a model gets them.
        """
        for layer in self._layers:
            for member in self.members:
                if isinstance(member, DeferredAdam):
                    member.catch_up(layer.table, layer.rows(ids))

    def flush(self) -> None:
        """Make all rows ready to be read or saved."""
        for layer in self._layers:
            for member in self.members:
                if isinstance(member, DeferredAdam):
                    member.catch_up(layer.table)

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
        needs_all_rows = train.weight_decay > 0 or train.average_last > 0
        kind = "deferred_adam" if large and not on_gpu and not needs_all_rows else "adam"
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
    if kind == "deferred_adam":
        members.append(DeferredAdam(tables, lr=rate))
    elif kind == "lazy_adam":
        members.append(LazyAdam(tables, lr=rate, weight_decay=decay))
    elif kind == "sparse_adam":
        members.append(torch.optim.SparseAdam(tables, lr=rate))
    else:
        members.append(RowwiseAdagrad(tables, lr=rate, weight_decay=decay))
    if others:
        members.append(torch.optim.Adam(others, lr=train.learning_rate, weight_decay=decay, fused=True))
    return Optimizers(members, layers)
