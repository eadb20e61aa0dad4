"""What the routes share: the bundles, the limits, the counters and the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from funnelcast.errors import ConfigError, choices
from funnelcast.serving.http.ab import AbPage
from funnelcast.serving.http.admission import Admission
from funnelcast.serving.http.decode import user_of
from funnelcast.serving.http.exposure_log import open_exposures
from funnelcast.serving.http.file_log import FileLog, check_log
from funnelcast.serving.http.follow import Follower
from funnelcast.serving.http.keys import Keys
from funnelcast.serving.http.measure import Metrics
from funnelcast.serving.http.paced import TOO_LATE, Paced
from funnelcast.serving.http.refusal import RefusalError
from funnelcast.serving.http.request_log import RequestLog
from funnelcast.serving.http.scoring import Answered, Asked, Scoring
from funnelcast.serving.http.settings import Settings
from funnelcast.serving.http.shadow import Shadow
from funnelcast.serving.http.shedding import Shedding
from funnelcast.serving.http.variants import Variant, Variants

__all__ = ["ADMIN_KEYS", "SCORE_KEYS", "Service"]

SCORE_KEYS = "FUNNELCAST_SCORE_KEYS"
ADMIN_KEYS = "FUNNELCAST_ADMIN_KEYS"
_SMALL_BODY = 1 << 15  # bytes; JSON of this length is parsed in a fraction of a millisecond


class Service:
    """One process' scoring.

    Args:
        variants: the bundles.
        settings: limits and keys.

    Attributes:
        ready: whether golden rows were reproduced, and the service is not about to stop.

    Raises:
        ConfigError: the keys are wrong, or a log's format cannot be written here.
    """

    def __init__(self, variants: Variants, settings: Settings) -> None:
        check_log("exposures", settings.exposures)
        check_log("shadow", settings.shadow)
        if settings.ab.page and settings.ab.base is not None and settings.ab.base not in variants.all:
            base = settings.ab.base
            raise ConfigError(f"key 'ab.base': no bundle has the name '{base}'; {choices(variants.all, base)}")
        self.variants, self.settings = variants, settings
        shadowed = bool(settings.shadow.shares)
        self.scoring = Scoring(
            variants, settings.limits.rows, self._failed, scores=settings.exposures.scores, shadowed=shadowed
        )
        paced = Paced(self.scoring.score_all, lambda: variants.small_rows)
        self.admission = Admission(settings.limits, settings.server.own_threads, settings.server.body_seconds, paced)
        self.keys = Keys.read(settings.score_keys, SCORE_KEYS)
        self.admin_keys = Keys.read(settings.admin_keys, ADMIN_KEYS)
        self.metrics = Metrics()
        self.shedding, self.requests = Shedding(self.metrics), RequestLog()
        self.metrics.follow(lambda: self.admission.inside)
        for variant in variants.all.values():
            self.metrics.model.labels(variant.name, variant.version).set(1)
        self.ready = False
        self.ab = AbPage(settings.ab, self._experiment) if settings.ab.page else None
        self._exposures: FileLog | None = None
        self._shadow: Shadow | None = None
        self._follower: Follower | None = None

    def start(self) -> None:
        """Score golden rows, after which the service is ready, open the logs, and follow registries.

        Raises:
            ArtifactError: a bundle gives other scores.
            OSError: a log's folder cannot be made.
        """
        self._exposures = open_exposures(self.settings.exposures, self.metrics)
        if self.settings.shadow.shares:
            busy = self.admission
            self._shadow = Shadow(
                self.variants, self.settings.shadow, self.metrics, lambda: busy.inside + busy.coming > 0
            )
        for variant in self.variants.all.values():
            variant.bundle.verify()
        if self.variants.registries or self.settings.traffic is not None:
            refused = self.metrics.refused_swaps
            self._follower = Follower(
                self.variants, self.settings.traffic, self._swapped, lambda name: refused.labels(name).inc()
            )
            self._follower.start()
        self.ready = True

    def stop(self) -> None:
        """Finish what was accepted and write the logs."""
        self.ready = False
        if self.ab is not None:
            self.ab.close()
        self.admission.close()
        if self._follower is not None:
            self._follower.close()
        if self._exposures is not None:
            self._exposures.close()
        if self._shadow is not None:
            self._shadow.close()

    def prepare(self, body: bytes, request_id: str, strict: bool, deadline: float) -> Asked | Callable[[], Answered]:
        """Parse a request that the event loop may score, whichever variant it is for.

        Args:
            body: JSON.
            request_id: of the request.
            strict: whether unknown and missing columns are refused.
            deadline: on the clock of `time.monotonic`.

        Returns:
            The request; or what answers it, in a thread, where it is longer.

        Raises:
            RefusalError: it is no request.
        """
        read = partial(Asked.of, body, request_id, strict, deadline, self.variants.shapes, self.settings.limits.rows)
        if len(body) > _SMALL_BODY:
            return lambda: self.scoring.score(read())
        asked = read()
        return asked if asked.rows <= self.variants.small_rows else partial(self.scoring.score, asked)

    def _failed(self, asked: Asked, answered: Answered, error: Exception) -> None:
        """Count a sound request that was not answered, and log who got none; `expose_late` does behind the deadline."""
        self.metrics.failures.labels(answered.variant.name).inc()
        if time.monotonic() < asked.deadline:
            self._expose(answered, asked.request_id, error=type(error).__name__)

    def note(self, answered: Answered, request_id: str, started: float) -> None:
        """Count an answer, and log who got it; requests without a user are no exposures.

        Args:
            answered: the answer.
            request_id: of the request.
            started: when it came, on the clock of `time.perf_counter`.
        """
        self.metrics.rows.observe(answered.rows)
        self.metrics.scored.labels(answered.variant.name).inc(answered.rows)
        self._expose(answered, request_id, latency=(time.perf_counter() - started) * 1000)

    def _expose(
        self, answered: Answered, request_id: str, latency: float | None = None, error: str | None = None
    ) -> None:
        """Log whose variant a user got, also where it failed: leaving these users out would favour what fails."""
        if self._exposures is not None and answered.user is not None:
            row: Mapping[str, Any] = {
                "time": datetime.now(UTC),
                "user": answered.user,
                "experiment": answered.experiment,
                "variant": answered.variant.name,
                "request_id": request_id,
                "model_version": answered.variant.version,
                "latency_ms": latency,
                "error": error,
                "scores": answered.scores,
            }
            self._exposures.add(row)

    def expose_late(self, body: bytes, request_id: str) -> None:
        """Log whose request met its deadline: leaving these users out would favour a variant that is slow.

        Args:
            body: JSON of the request; nothing is logged for one that is none or has no user.
            request_id: of the request.
        """
        user = user_of(body) if self._exposures is not None else None
        if user is None:
            return
        try:
            variant, experiment = self.variants.of(user)
        except RefusalError:
            return  # such a user would have been refused in time, too
        self._expose(Answered(b"", variant, 0, experiment, str(user)), request_id, error=TOO_LATE)

    async def follow_up(self, answered: Answered) -> None:
        """Do what an answer must not wait for.

        Args:
            answered: the answer, which was sent.
        """
        if self._shadow is not None and answered.job is not None:
            self._shadow.offer(answered.job)

    def _swapped(self, old: Variant, new: Variant) -> None:
        self.metrics.model.labels(old.name, old.version).set(0)
        self.metrics.model.labels(new.name, new.version).set(1)
        self.metrics.swaps.labels(new.name).inc()

    def _experiment(self) -> dict[str, Any]:
        """Collect what the page of the experiment is made of."""
        settings, traffic, metrics = self.settings, self.variants.traffic, self.metrics
        assert settings.exposures.folder is not None
        shares = traffic.allocation.shares
        rows = metrics.sums("funnelcast_scored_rows_total", "variant")
        failures = metrics.sums("funnelcast_failed_scores_total", "variant")
        variants = [
            {
                "variant": name,
                "version": variant.version,
                "share": f"{shares[name]:.4g}" if name in shares else "none",
                "rows": rows.get(name, 0),
                "failures": failures.get(name, 0),
            }
            for name, variant in self.variants.all.items()
        ]
        live = {
            "variants": variants,
            "requests": metrics.sums("funnelcast_requests_total", "status", route="/v1/score"),
            "exposures": metrics.sums("funnelcast_exposures_total", "end"),
        }
        # All services follow a change within a second; who came before was split by other shares.
        since = (traffic.since + timedelta(seconds=1)).isoformat() if traffic.since is not None else None
        return settings.ab.model_dump(mode="json", exclude={"page", "timeout_seconds"}) | {
            "experiment": traffic.experiment,
            "shares": shares,
            "since": since,
            "exposures": str(settings.exposures.folder / f"exposures-*.{settings.exposures.format}"),
            "now": datetime.now(UTC).isoformat(),
            "live": live,
        }
