"""Sluice: layers split in subspaces that all steps mix, and heads that mix all layers."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import MLP, FeatureEmbedding, FunnelModel, Tower, check_at_least, check_widths
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import Choice, LogUniform, SearchSpace

__all__ = ["Sluice"]


@MODELS.register
class Sluice(FunnelModel):
    """Sluice. Ruder, Bingel, Augenstein, Søgaard, AAAI 2019, "Latent multi-task architecture learning".

    z_i0 = flatten(E[x]),  h_il = relu(W_il z_i,l-1 + b_il) = [h_il1 ... h_ilG],  z_ilg = sum_jq alpha_l[ig, jq] h_jlq
    m_i = sum_l softmax(beta_i)_l z_il,  p_i = sigmoid(tower_i(m_i)),  penalty = c sum_il sum_{g<q} ||W_ilg^T W_ilq||^2

    W_ilg [inputs, H/G] holds the columns that make subspace g, so that the squared Frobenius norm is 0 where each unit
    of a subspace is orthogonal to each unit of another one. The penalty is on the prediction, already weighted.

    NOTE[paper]: recurrent layers there, full layers with ReLU here.
    NOTE[paper]: beta is a vector of free numbers in the official code; here a softmax makes it shares.
    NOTE[paper]: the official code splits the matrix along its units and multiplies over them, which leaves a matrix of
    inputs by inputs; here the product is over the inputs, one number a pair of units.

    Idea: layers in subspaces that all steps mix, and heads that mix all layers.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        hidden: widths of every step's layers, at least one, all equal and divisible by `subspaces`.
        tower: widths of each step's layers after the mixture of layers.
        subspaces: G >= 1, parts of every layer.
        own: first alpha of a subspace for itself, in [0, 1]; each of the other S*G - 1 starts at an equal part of the
            rest.
        last: first share of the last layer, in (0, 1); each of the others starts at an equal part of the rest.
        orthogonality: weight c >= 0 of the penalty; 0 trains without it.
        head: what the logits stand for: `reach`, `transition` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> x [B, F*D] -> per layer h [B, S*G, H/G], alpha [S*G, S*G], z [B, S, H] -> logits [B, S];
        beta [S, L].

    Raises:
        ConfigError: a width is not a whole number >= 1, `hidden` is empty or its widths differ or are not divisible,
            a number is out of its range, or the head is unknown.

    Source: the paper's own code, sebastianruder/sluice-networks: predictors.py (alpha, beta), sluice_net.py (penalty),
        run_sluice_net.py (first beta); the paper's equations were not verified.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.1) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> Sluice(schema, hidden=(8, 8))(torch.tensor([[2], [3], [4]])).reach.shape
        torch.Size([3, 2])
    """

    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((64, 64), (128, 128), (256, 256)),
        "tower": Choice((), (32,), (64,)),
        "subspaces": Choice(1, 2, 4),
        "orthogonality": LogUniform(1e-3, 0.1, grid=(1e-3, 1e-2, 0.1)),
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        hidden: tuple[int, ...] = (128, 128),
        tower: tuple[int, ...] = (64,),
        subspaces: int = 2,
        own: float = 0.9,
        last: float = 0.9,
        orthogonality: float = 0.01,
        head: Head = "reach",
    ) -> None:
        super().__init__(schema)
        self.head, self.subspaces, self.orthogonality = head, subspaces, orthogonality
        check_at_least(1, subspaces=subspaces)
        check_widths(hidden=hidden, tower=tower)
        if not hidden or len(set(hidden)) > 1 or hidden[0] % subspaces:
            wanted = f"name at least one layer, all of one width that is divisible by subspaces={subspaces}"
            raise ConfigError(f"option 'hidden' should {wanted}, received {hidden}")
        if not 0.0 <= own <= 1.0 or not 0.0 < last < 1.0 or not orthogonality >= 0.0:
            wanted = "in [0, 1], in (0, 1) and >= 0"
            numbers = f"{own}, {last} and {orthogonality}"
            raise ConfigError(f"options 'own', 'last' and 'orthogonality' should be {wanted}, received {numbers}")
        self.embedding = FeatureEmbedding(schema, width)
        S, L, P = schema.n_steps, len(hidden), schema.n_steps * subspaces
        inputs = [self.embedding.n_outputs, *hidden[:-1]]
        self.layers = nn.ModuleList(
            nn.ModuleList(MLP(n, (m,)) for _ in range(S)) for n, m in zip(inputs, hidden, strict=True)
        )
        # Where there is one part or one layer only, its factor would be a useless parameter.
        self.alphas = nn.ParameterList(_first_alpha(P, own) for _ in range(L if P > 1 else 0))
        self.beta = nn.ParameterList(_first_beta(L, last).repeat(S, 1) for _ in range(1 if L > 1 else 0))
        self.towers = nn.ModuleList(Tower(hidden[-1], tower, start=start) for start in first_logits(schema, head))

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        x = self.embedding(ids).flatten(1)  # [B, F*D]
        streams: tuple[Tensor, ...] = (x,) * self.schema.n_steps
        outputs = []
        for number, layer in enumerate(self.layers):
            steps = zip(layer, streams, strict=True)  # type: ignore[call-overload]
            z = torch.stack([body(stream) for body, stream in steps], dim=1)  # [B, S, H]
            if self.alphas:
                parts = z.unflatten(2, (self.subspaces, -1)).flatten(1, 2)  # [B, S*G, H/G]
                z = torch.einsum("pq,bqh->bph", self.alphas[number], parts).reshape(z.shape)
            streams = z.unbind(1)
            outputs.append(z)
        mixture = outputs[-1]
        if self.beta:
            mixture = torch.einsum("sl,lbsh->bsh", self.beta[0].softmax(dim=1), torch.stack(outputs))
        logits = [tower(m) for tower, m in zip(self.towers, mixture.unbind(1), strict=True)]
        prediction = to_prediction(self.head, torch.stack(logits, dim=1))
        if not self.orthogonality or self.subspaces == 1:
            return prediction
        return replace(prediction, penalty=self.orthogonality * self.overlap())

    def overlap(self) -> Tensor:
        """Return [], the squared Frobenius norms of W_g^T W_q summed over pairs of subspaces, steps and layers."""
        total = self.embedding.table.new_zeros(())
        for name, weight in self.layers.named_parameters():
            if name.endswith("weight"):
                parts = weight.unflatten(0, (self.subspaces, -1))  # [G, H/G, inputs]
                products = torch.einsum("gui,qvi->gquv", parts, parts).square().sum((2, 3))  # [G, G]
                total = total + products.triu(1).sum()
        return total


def _first_alpha(parts: int, own: float) -> Tensor:
    """Return [S*G, S*G] with `own` on the diagonal and rows that sum to 1."""
    eye = torch.eye(parts)
    return own * eye + (1.0 - own) / (parts - 1) * (1.0 - eye)


def _first_beta(layers: int, last: float) -> Tensor:
    """Return [L] whose softmax is `last` for the last layer and equal for the others."""
    return torch.tensor([(1.0 - last) / (layers - 1)] * (layers - 1) + [last]).log()
