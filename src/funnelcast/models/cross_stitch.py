"""Cross-Stitch: after each layer, every step's activations are mixed with those of the other steps."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import MLP, FeatureEmbedding, FunnelModel, Tower, check_choice, check_widths
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import HIDDEN, SearchSpace, Uniform

__all__ = ["CrossStitch"]

Per = Literal["layer", "channel"]


@MODELS.register
class CrossStitch(FunnelModel):
    """Cross-Stitch. Misra, Shrivastava, Gupta, Hebert, CVPR 2016, "Cross-stitch networks for multi-task learning".

    x_i0 = flatten(E[x]),  h_il = relu(W_il x_i,l-1 + b_il),  x_il = sum_j a_l[i, j] h_jl,  p_i = sigmoid(tower_i(x_iL))

    One stack of layers a step, all of the same widths. The stitches a_l are free numbers: their rows sum to 1 at the
    start only. A step reads the other steps' units by their place, unit by unit.

    NOTE[paper]: the paper gives stitches a learning rate 100 to 1000 times larger than that of the layers; here all
    parameters share the one of the training, so that stitches stay nearer to their start.
    NOTE[paper]: the paper starts each stack from a network trained for its task alone; here all are drawn anew.

    Idea: one stack of layers a step, whose activations are mixed after each layer.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        hidden: widths of every step's layers, at least one; a stitch follows each of them.
        tower: widths of each step's layers after the last stitch.
        per: `layer`, one S x S matrix of numbers a layer, or `channel`, one for each of its units.
        own: first weight of a step's own activations, in [0, 1]; each other step starts at (1 - own) / (S - 1).
        head: what the logits stand for: `reach`, `transition` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> x [B, F*D] -> per layer h [B, S, H_l], a_l [S, S] or [S, S, H_l] -> logits [B, S].

    Raises:
        ConfigError: a width is not a whole number >= 1, `hidden` is empty, `own` is outside [0, 1], or a word is
            unknown.

    Source: first values and learning rate as reported of the paper, whose text was not verified.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.1) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> CrossStitch(schema, hidden=(8, 4))(torch.tensor([[2], [3], [4]])).reach.shape
        torch.Size([3, 2])
    """

    search_space: ClassVar[SearchSpace] = {
        "hidden": HIDDEN,
        "own": Uniform(0.5, 1.0, grid=(0.5, 0.7, 0.9)),
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        hidden: tuple[int, ...] = (256, 128, 64),
        tower: tuple[int, ...] = (),
        per: Per = "layer",
        own: float = 0.9,
        head: Head = "reach",
    ) -> None:
        super().__init__(schema)
        self.head = head
        check_widths(hidden=hidden, tower=tower)
        check_choice("per", per, Per)
        if not hidden:
            raise ConfigError("option 'hidden' should name at least one layer, received none")
        if not 0.0 <= own <= 1.0:
            raise ConfigError(f"option 'own' should be in [0, 1], received {own}")
        self.embedding = FeatureEmbedding(schema, width)
        S, inputs = schema.n_steps, [self.embedding.n_outputs, *hidden[:-1]]
        self.layers = nn.ModuleList(
            nn.ModuleList(MLP(n, (m,)) for _ in range(S)) for n, m in zip(inputs, hidden, strict=True)
        )
        # A single step has nothing to be stitched to, and a factor that only scales it would be a useless parameter.
        widths = hidden if S > 1 else ()
        self.stitches = nn.ParameterList(_first_stitch(S, own, m if per == "channel" else 1) for m in widths)
        self.towers = nn.ModuleList(Tower(hidden[-1], tower, start=start) for start in first_logits(schema, head))

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        x = self.embedding(ids).flatten(1)  # [B, F*D]
        streams: tuple[Tensor, ...] = (x,) * self.schema.n_steps
        for number, layer in enumerate(self.layers):
            steps = zip(layer, streams, strict=True)  # type: ignore[call-overload]
            h = torch.stack([body(stream) for body, stream in steps], dim=1)  # [B, S, H_l]
            if self.stitches:
                stitch = self.stitches[number].expand(-1, -1, h.shape[2])  # [S, S, H_l]
                h = torch.einsum("ijh,bjh->bih", stitch, h)
            streams = h.unbind(1)
        logits = [tower(stream) for tower, stream in zip(self.towers, streams, strict=True)]
        return to_prediction(self.head, torch.stack(logits, dim=1))


def _first_stitch(n_steps: int, own: float, channels: int) -> Tensor:
    """Return [S, S, channels] with `own` on the diagonal and rows that sum to 1."""
    eye = torch.eye(n_steps)
    stitch = own * eye + (1.0 - own) / (n_steps - 1) * (1.0 - eye)
    return stitch[:, :, None].repeat(1, 1, channels)
