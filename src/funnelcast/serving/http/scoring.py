"""Requests for scores -> answers; small ones of one moment share a call of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from funnelcast.data.ids import Ids
from funnelcast.serving.http.answer import answer, encode_json, encode_rows, score_rows
from funnelcast.serving.http.decode import Request, parse_body
from funnelcast.serving.http.open_inference import infer_answer, infer_rows, parse_infer
from funnelcast.serving.http.refusal import RefusalError
from funnelcast.serving.http.rows import Laid, count_rows, joined_cells, lay_out
from funnelcast.serving.http.shadow import ShadowJob
from funnelcast.serving.http.shapes import Shaped, Shapes
from funnelcast.serving.http.variants import Variant, Variants
from funnelcast.serving.scorer import Scored

__all__ = ["Answered", "Asked", "Scoring"]


@dataclass(frozen=True)
class Asked:
    """A request of `POST /v1/score`.

    Args:
        body: its JSON.
        parsed: what the JSON says; of a known shape, its columns.
        request_id: of the request.
        strict: whether unknown and missing columns are refused.
        deadline: on the clock of `time.monotonic`.
        rows: number of candidates.
    """

    body: bytes
    parsed: Request | Shaped
    request_id: str
    strict: bool
    deadline: float
    rows: int

    @classmethod
    def of(
        cls, body: bytes, request_id: str, strict: bool, deadline: float, shapes: Shapes | None = None, largest: int = 1
    ) -> Asked:
        """Parse a request.

        Args:
            body: JSON.
            request_id: of the request.
            strict: whether unknown and missing columns are refused.
            deadline: on the clock of `time.monotonic`.
            shapes: that are known.
            largest: number of rows that a request of a known shape may have.

        Raises:
            RefusalError: it is no request.
        """
        shaped = None if shapes is None else shapes.parse(body, largest=largest, strict=strict)
        if shaped is not None:
            return cls(body, shaped, request_id, strict, deadline, shaped.laid.rows)
        parsed = parse_body(body)
        return cls(body, parsed, request_id, strict, deadline, count_rows(parsed))


@dataclass(frozen=True)
class Answered:
    """An answer and what the log says of it.

    Args:
        body: JSON.
        variant: what scored.
        rows: number of candidates.
        experiment: that chose the variant.
        user: key of the user, or None.
        scores: the last step's reach of every candidate.
        job: what a shadow scores; None for what no shadow may.
    """

    body: bytes
    variant: Variant
    rows: int
    experiment: str = ""
    user: str | None = None
    scores: Sequence[float] = ()
    job: ShadowJob | None = None


@dataclass(eq=False)
class _Begun:
    """A request whose variant is chosen.

    Args:
        asked: the request.
        variant: that answers.
        experiment: that chose it.
        user: key of the user, or None.
        laid: its columns.
        ids: [B, W] of its rows, once they are encoded.
    """

    asked: Asked
    variant: Variant
    experiment: str
    user: str | None
    laid: Laid
    ids: Ids | None = None


class Scoring:
    """Scores requests; in threads, or in the event loop for few rows.

    Args:
        variants: the bundles.
        most_rows: of a request.
        failed: told of a sound request that a variant failed to answer, and of the exception.
        scores: whether an answer carries the scores for a log.
        shadowed: whether an answer carries what a shadow scores.
    """

    def __init__(
        self,
        variants: Variants,
        most_rows: int,
        failed: Callable[[Asked, Answered, Exception], None],
        *,
        scores: bool,
        shadowed: bool,
    ) -> None:
        self._variants, self._most_rows, self._failed = variants, most_rows, failed
        self._scores, self._shadowed = scores, shadowed

    def score(self, asked: Asked) -> Answered:
        """Answer a request.

        Args:
            asked: the request.

        Raises:
            RefusalError: the request is wrong.
            ArtifactError: the model gives a score that is NaN or infinite.
        """
        (outcome,) = self.score_all([asked])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def score_all(self, requests: Sequence[Asked]) -> list[Answered | Exception]:
        """Answer several requests, those of one variant by one call of its model.

        A call of a small model takes longer than a further row. None suffers from another: where a call fails, each
        request is scored alone.

        Args:
            requests: of few rows, where there are several.

        Returns:
            An answer for each, or the exception that ended it, which `score` would raise.
        """
        begun = [self._begin(asked) for asked in requests]
        groups: dict[Variant, list[_Begun]] = {}
        for one in begun:
            if isinstance(one, _Begun):
                groups.setdefault(one.variant, []).append(one)
        outcomes: dict[_Begun, Answered | Exception] = {}
        for variant, group in groups.items():
            refused = self._encode(variant, group)
            sound = [one for one in group if one not in refused]
            outcomes |= refused | dict(zip(sound, self._end(sound), strict=True))
        return [outcomes[one] if isinstance(one, _Begun) else one for one in begun]

    def _begin(self, asked: Asked) -> _Begun | Exception:
        try:
            variant, experiment = self._variants.of(asked.parsed.user)
            user = None if asked.parsed.user in (None, "") else str(asked.parsed.user)
        except RefusalError as error:
            return error
        try:
            laid = self._laid(asked, variant)
        except RefusalError as error:
            return error
        except Exception as error:
            self._failed(asked, Answered(b"", variant, 0, experiment, user), error)
            return error
        return _Begun(asked, variant, experiment, user, laid)

    def _laid(self, asked: Asked, variant: Variant) -> Laid:
        parsed = asked.parsed
        if isinstance(parsed, Shaped):
            if parsed.shapes is variant.shapes:
                return parsed.laid
            parsed = parse_body(asked.body)  # the variant has other columns
        laid = lay_out(parsed, variant.columns, largest=self._most_rows, strict=asked.strict)
        variant.shapes.learn(parsed, laid)
        return laid

    def _encode(self, variant: Variant, group: Sequence[_Begun]) -> dict[_Begun, Exception]:
        """Encode requests of one variant, those of a row together; return what ended some of them."""
        short = [one for one in group if one.laid.rows == 1]
        few, refused = variant.bundle.encoders.few, dict[_Begun, Exception]()
        ids: Ids | None = None
        if few is not None and len(short) > 1:
            try:
                ids = few.ids(joined_cells([one.laid for one in short], variant.columns))
            except Exception:
                ids = None  # the fault of one of them, which is told apart from the others below
        if ids is not None:
            for k, one in enumerate(short):
                one.ids = ids[k : k + 1]
        for one in group:
            try:
                if one.ids is None:
                    one.ids = encode_rows(variant, one.laid.raw(variant.columns))
            except RefusalError as error:
                refused[one] = error
            except Exception as error:
                self._failed(one.asked, Answered(b"", variant, 0, one.experiment, one.user), error)
                refused[one] = error
        return refused

    def _end(self, group: Sequence[_Begun]) -> list[Answered | Exception]:
        """Score requests of one variant."""
        if not group:
            return []
        first = group[0]
        try:
            parts = [one.ids for one in group if one.ids is not None]
            ids = parts[0] if len(parts) == 1 else np.concatenate(parts)
            reach, transition, value = first.variant.bundle.score_ids(ids)
            outcomes: list[Answered | Exception] = []
            end = 0
            for one in group:
                rows = slice(end, end := end + one.laid.rows)
                part = Scored(reach[rows], transition[rows], None if value is None else value[rows])
                outcomes.append(self._answer(one, part))
        except Exception as error:
            if len(group) > 1:
                return [outcome for one in group for outcome in self._end([one])]
            answered = Answered(b"", first.variant, 0, first.experiment, first.user)
            self._failed(first.asked, answered, error)
            return [error]
        return outcomes

    def _answer(self, begun: _Begun, scored: Scored) -> Answered:
        asked, variant = begun.asked, begun.variant
        said = encode_json(answer(variant, begun.laid, scored, asked.request_id))
        kept = scored.reach[:, -1].tolist() if self._scores else []
        job = ShadowJob(asked.body, asked.request_id, variant, scored.reach) if self._shadowed else None
        return Answered(said, variant, len(scored.reach), begun.experiment, begun.user, kept, job)

    def infer(self, body: bytes, request_id: str, variant: Variant) -> Answered:
        """Answer a request of the Open Inference Protocol.

        Args:
            body: JSON.
            request_id: of the request.
            variant: the model.

        Raises:
            RefusalError: the request is wrong.
            ArtifactError: the model gives a score that is NaN or infinite.
        """
        request = parse_infer(body)
        scored = score_rows(variant, infer_rows(request, variant.columns, self._most_rows))
        said = encode_json(infer_answer(request, variant, scored, request_id))
        return Answered(said, variant, len(scored.reach))
