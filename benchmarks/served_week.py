"""A simulated week through a running service: two bundles rank what visitors see, over HTTP, and the week is analysed.

`make demo-serving` trains and exports the bundles and runs `python -m benchmarks.served_week FOLDER`. The service is a
process of its own and logs its exposures itself; visitors and their answers are the simulator's, whose true funnel
decides. Seven days pass in a minute, so before the analysis each logged time becomes that of its request in the week.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from funnelcast.experiment.ranking import top
from funnelcast.experiment.simulated_world import common_world
from funnelcast.experiment.traffic import Traffic, Visits
from funnelcast.process import prepare_process
from funnelcast.progress import RowProgress
from funnelcast.run import Run
from funnelcast.serving.traffic import set_shares

VARIANTS = ("control", "treatment")
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
DELAY = timedelta(minutes=2)  # from the answer to what the visitor does
START_SECONDS = 60.0
LOG_SECONDS = 30.0
SETTINGS = """traffic = "{folder}/traffic.json"

[exposures]
folder = "{folder}/exposures"
file_rows = 1000
file_seconds = 2.0

[ab]
page = true
outcomes = "{folder}/outcomes.jsonl"
planned_lift = 0.2
age_seconds = 1.0
"""


@contextmanager
def served(bundles: list[Path], config: Path) -> Iterator[int]:
    """Run `funnelcast serve` and give its port; it is asked to end, and answers and writes all before it does."""
    words = [*map(str, bundles), "--config", str(config), "--port", "0"]
    command = [sys.executable, "-m", "funnelcast", "serve", *words]
    with (config.parent / "service.jsonl").open("w+") as log:
        process = subprocess.Popen(command, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        try:
            yield _wait(process, config.parent / "service.jsonl")
            process.send_signal(signal.SIGTERM)
            if process.wait(30) not in (0, -signal.SIGTERM):  # uvicorn ends by the signal that it was sent
                raise SystemExit(f"the service ended with {process.returncode}; its log is {log.name}")
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until the service says that it is ready; returns its port."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        if any(line["event"] == "ready" for line in lines):
            return int(next(line["port"] for line in lines if line["event"] == "listening"))
        time.sleep(0.1)
    raise SystemExit(f"the service did not become ready; its log is {log}")


class Visitors:
    """Sends visits to a service, and answers by the true funnel what it ranks first.

    Args:
        port: of the service.
        steps: of the funnel.
        show: candidates that a visitor sees.
    """

    def __init__(self, port: int, steps: tuple[str, ...], show: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._steps, self._show = steps, show
        self.times: dict[str, datetime] = {}  # request -> its time in the simulated week
        self.outcomes: list[dict[str, Any]] = []  # with times of the simulated week

    def visit(self, request: str, moment: datetime, user: str, columns: Mapping[str, Any], response: Any) -> None:
        """Have the candidates of a visit ranked, and note what the visitor did.

        Args:
            request: id of the request.
            moment: in the simulated week.
            user: who visits.
            columns: raw columns of C candidates.
            response: [C, S] bool, how far the visitor would go.
        """
        head = {"content-type": "application/json", "x-request-id": request}
        self._connection.request("POST", "/v1/score", json.dumps({"user": user, "columns": columns}), head)
        reply = self._connection.getresponse()
        said = json.loads(reply.read())
        if reply.status != 200:
            raise SystemExit(f"a visit was answered with {reply.status}: {said['error']['message']}")
        best = top(np.array([said["reach"][self._steps[-1]]]), self._show)[0]
        counts = response[best].sum(axis=0).tolist()
        self.times[request] = moment
        if counts[0]:
            done = dict(zip(self._steps, counts, strict=True))
            self.outcomes.append({"time": moment + DELAY, "user": user, "request_id": request, **done})


def send(visitors: Visitors, visits: Visits, total: int, first: int) -> None:
    """Send visits of one day, which are spread evenly from seven to eleven.

    Args:
        visitors: who sends them.
        visits: V visits.
        total: visits of the day.
        first: number of the first of them within the day.
    """
    candidates = visits.response.shape[1]
    for number, user in enumerate(visits.user.tolist()):
        rows = visits.features.slice(number * candidates, candidates).to_pydict()
        place = first + number
        moment = MONDAY + timedelta(days=visits.day, hours=7 + 16 * (place + 0.5) / total)
        visitors.visit(f"day{visits.day}-{place}", moment, f"user {user}", rows, visits.response[number])


def stretch(folder: Path, times: Mapping[str, datetime]) -> None:
    """Write the exposures that the service logged with the times of the simulated week.

    Args:
        folder: with `exposures/`; `week.parquet` is written beside it.
        times: request -> its time in the week.
    """
    table = pq.read_table(folder / "exposures")
    column = table.schema.get_field_index("time")
    week = pa.array([times[request] for request in table["request_id"].to_pylist()], table.schema.field(column).type)
    pq.write_table(table.set_column(column, table.schema.field(column), week), folder / "week.parquet")


def write_outcomes(path: Path, outcomes: list[dict[str, Any]], now: bool) -> None:
    """Write outcomes as JSON lines.

    Args:
        path: of the file.
        outcomes: with times of the simulated week.
        now: write the present time instead, which is that of the service's own log.
    """
    moment = datetime.now(UTC)
    lines = [{**row, "time": (moment if now else row["time"]).isoformat()} for row in outcomes]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def wait_for_log(folder: Path, rows: int) -> None:
    """Wait until the service has written its exposures, which it does a few seconds late.

    Args:
        folder: of its files, each of which appears when it is whole.
        rows: that are expected.
    """
    end, written = time.monotonic() + LOG_SECONDS, 0
    while time.monotonic() < end:
        written = sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
        if written == rows:
            return
        time.sleep(0.2)
    raise SystemExit(f"{folder}: should have an exposure for each of {rows} visits, received {written}")


def live_page(port: int) -> bytes:
    """Read `/ab` of the running service."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ab", timeout=120) as reply:
            page: bytes = reply.read()
    except urllib.error.HTTPError as error:
        raise SystemExit(f"/ab was answered with {error.code}: {error.read().decode()}") from error
    return page


def serve_week(folder: Path, traffic: Traffic, show: int) -> None:
    """Serve two bundles for a simulated week; writes `week/live.html`, the service's own page, and `week/ab.html`.

    Args:
        folder: with run-control and run-treatment, and their bundles control and treatment.
        traffic: who comes.
        show: candidates that a visitor sees, >= 1.
    """
    out = folder / "week"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    simulator = common_world([Run(folder / f"run-{name}") for name in VARIANTS])
    set_shares(out / "traffic.json", dict.fromkeys(VARIANTS, 0.5), "week")
    (out / "serve.toml").write_text(SETTINGS.format(folder=out))
    totals = [len(traffic.of_day(day)) for day in range(traffic.days)]
    with served([folder / name for name in VARIANTS], out / "serve.toml") as port:
        visitors = Visitors(port, simulator.steps, show)
        time.sleep(1.0)  # the page counts from a second after the shares were set
        with RowProgress("visits", sum(totals)) as progress:
            sent = [0] * traffic.days
            for visits in traffic.draw(simulator):
                send(visitors, visits, totals[visits.day], sent[visits.day])
                sent[visits.day] += len(visits.user)
                progress.advance(len(visits.user))
        write_outcomes(out / "outcomes.jsonl", visitors.outcomes, now=True)
        wait_for_log(out / "exposures", len(visitors.times))
        (out / "live.html").write_bytes(live_page(port))
    stretch(out, visitors.times)
    write_outcomes(out / "week.jsonl", visitors.outcomes, now=False)
    _analyse(out, simulator.steps)


def _analyse(out: Path, steps: Iterable[str]) -> None:
    """Run `funnelcast abtest analyse` on the week."""
    words = ["--exposures", str(out / "week.parquet"), "--outcomes", str(out / "week.jsonl"), "--base", VARIANTS[0]]
    words += [word for name in VARIANTS for word in ("--share", f"{name}=0.5")]
    words += [word for step in steps for word in ("--step", step)]
    command = [sys.executable, "-m", "funnelcast", "abtest", "analyse", *words]
    subprocess.run([*command, "--planned-lift", "0.2", "--out", str(out)], check=True)


def main() -> None:
    """Serve, visit, analyse."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with run-control, run-treatment, and bundles control and treatment")
    for name, default in (("users", 2000), ("candidates", 20), ("show", 1), ("days", 7), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    prepare_process()
    serve_week(given.folder, Traffic(given.days, given.users, given.candidates, seed=given.seed), given.show)


if __name__ == "__main__":
    main()
