"""A client of the scoring service in a process of its own: requests at given times, or as fast as answers come.

    python -m benchmarks.serving_load JOB.json OUT.npz

Latency counts from the time at which a request should have been sent, so that a service that stalls cannot hide what
would have come meanwhile. Sockets are plain. `select` waits in microseconds, where an event loop waits in whole
milliseconds; it looks at one `epoll` alone, so that many open connections cost no more than few.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from benchmarks.serving_pulse import EVERY, Pulse, calm, slow_moments
from numpy.typing import NDArray

IDLE = 10.0  # seconds; the service keeps an idle connection for 20
LOST, REFUSED = 0, -1  # in place of a status: no answer came, or no connection


@dataclass(frozen=True)
class Job:
    """What a client does.

    Args:
        port: of the service.
        body: JSON of every request.
        connections: at most, kept open.
        seconds: in which requests are sent.
        rate: requests a second at random times, as of many users (a Poisson process); None sends as answers come.
        warm: of the seconds, at their begin, that are not counted.
        timeout: seconds until a request counts as lost.
        keep: whether connections are used again.
        seed: of the times.
    """

    port: int
    body: str
    connections: int
    seconds: float
    rate: float | None = None
    warm: float = 0.5
    timeout: float = 10.0
    keep: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """What a client saw, warming up left out.

    Args:
        intended: seconds since the begin at which each request should have been sent.
        latency: seconds from then to the end of its answer.
        status: of HTTP, or `LOST`.
        seconds: in which requests were sent.
        answers: (status, version, scores of the answer) -> number.
        slow: begins of the moments in which the machine itself was slow, the client among all that ran.
        warm: seconds at the begin that are not counted.
    """

    intended: NDArray[np.float64]
    latency: NDArray[np.float64]
    status: NDArray[np.int64]
    seconds: float
    answers: dict[tuple[int, str, str], int]
    slow: NDArray[np.float64]
    warm: float

    def calm(self) -> Measured:
        """Leave out what was sent about the slow moments of the machine, and their seconds; `answers` stay."""
        kept = calm(self.intended, self.slow)
        share = float(calm(np.linspace(self.warm, self.warm + self.seconds, 10_000), self.slow).mean())
        return replace(
            self,
            intended=self.intended[kept],
            latency=self.latency[kept],
            status=self.status[kept],
            seconds=self.seconds * share,
        )

    def per_second(self, status: int = 200) -> float:
        """Return answers of a status a second."""
        return float((self.status == status).sum() / self.seconds) if self.seconds else float("nan")

    def milliseconds(self, share: float, status: int = 200) -> float:
        """Return a quantile of the latency of a status."""
        found = self.latency[self.status == status]
        return float(np.quantile(found, share) * 1000) if len(found) else float("nan")


class _Connection:
    def __init__(self, port: int, known: dict[int, _Connection], poll: select.epoll) -> None:
        self._port, self._known, self._poll = port, known, poll
        self._socket: socket.socket | None = None
        self._buffer, self.intended, self.number, self._used = bytearray(), 0.0, -1, 0.0

    def send(self, request: bytes, intended: float) -> None:
        """Send a request, on a new connection where there is none or the service may have closed it as idle."""
        now = time.perf_counter()
        if now - self._used > IDLE:
            self.close()
        self._used = now
        if self._socket is None:
            self._buffer.clear()
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._poll.register(self._socket, select.EPOLLIN)
            self._known[self._socket.fileno()] = self
        self.intended, self.number = intended, self._socket.fileno()
        self._socket.sendall(request)

    def close(self) -> None:
        """Close it; the next request opens it again."""
        if self._socket is not None:
            del self._known[self._socket.fileno()]
            self._socket.close()  # which also takes it out of the poll
        self._socket = None

    def answer(self) -> tuple[int, bytes, bytes] | None:
        """Take what came; status, head and body once an answer is complete."""
        assert self._socket is not None
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionError("closed")
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._buffer[:end]).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self._buffer) < end + 4 + length:
            return None
        body = bytes(self._buffer[end + 4 :])
        self._buffer.clear()
        return int(head[9:12]), head, body


class _Client:
    def __init__(self, job: Job) -> None:
        self._job = job
        body = job.body.encode()
        head = "POST /v1/score HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        head += f"connection: {'keep-alive' if job.keep else 'close'}\r\ncontent-length:"
        self._request = f"{head} {len(body)}\r\n\r\n".encode() + body
        self._free: deque[_Connection] = deque()
        self._known: dict[int, _Connection] = {}
        self._busy: dict[int, _Connection] = {}
        self._poll = select.epoll()
        self._made, self._look_at = 0, 0.0
        self.records: list[tuple[float, float, int]] = []
        self.answers: Counter[tuple[int, str, str]] = Counter()
        self.pulse = Pulse()

    def run(self) -> None:
        """Send until the time is over, then wait for what is under way."""
        job = self._job
        times = self._times()
        self._start = time.perf_counter()  # a clock that all processes share
        print(self._start, flush=True)
        due: deque[float] = deque()
        while True:
            self.pulse.look(time.perf_counter() - self._start)
            now = time.perf_counter() - self._start
            sending = now < job.seconds
            if times is None and sending:
                due = deque([now] * (job.connections - len(self._busy)))
            while times and times[0] <= now:
                due.append(times.popleft())
            while due and self._send(due[0]):
                due.popleft()
            if not sending and not self._busy and not due:
                return
            following = times[0] if times else job.seconds if sending else now + 0.05
            self._receive(max(0.0, min(following - now, EVERY)))

    def _times(self) -> deque[float] | None:
        if self._job.rate is None:
            return None
        draw = np.random.default_rng(self._job.seed)
        count = int(self._job.rate * self._job.seconds * 1.2) + 50
        times = np.cumsum(draw.exponential(1 / self._job.rate, count))
        return deque(times[times < self._job.seconds].tolist())

    def _send(self, intended: float) -> bool:
        """Send on a free connection; say whether there was one."""
        if not self._free and self._made >= self._job.connections:
            return False
        if not self._free:
            self._free.append(_Connection(self._job.port, self._known, self._poll))
            self._made += 1
        connection = self._free.pop()
        try:
            connection.send(self._request, intended)
            self._busy[connection.number] = connection
        except OSError:
            self._busy = {number: one for number, one in self._busy.items() if one is not connection}
            connection.close()
            self._free.append(connection)
            self._record(intended, REFUSED)
            time.sleep(0.001)  # nobody listens: not as fast as the machine can
        return True

    def _receive(self, wait: float) -> None:
        ready, _, _ = select.select([self._poll], [], [], wait)
        for number, _ in self._poll.poll(0) if ready else ():
            one = self._known[number]
            if number not in self._busy:
                one.close()  # the service closed it as idle
                continue
            try:
                found = one.answer()
            except OSError:
                self._lose(one, one.intended)
                continue
            if found is None:
                continue
            status, head, body = found
            self._record(one.intended, status)
            version = head.partition(b"x-model-version: ")[2].partition(b"\r\n")[0].decode()
            scores = body.partition(b'"reach":')[2].partition(b"}")[0].decode() if len(body) < 5000 else ""
            self.answers[status, version, scores] += 1
            del self._busy[number]
            if not self._job.keep or b"connection: close" in head:
                one.close()
            self._free.append(one)
        now = time.perf_counter() - self._start
        if now >= self._look_at:
            self._look_at = now + 0.1
            for one in [one for one in self._busy.values() if now - one.intended > self._job.timeout]:
                self._lose(one, one.intended)

    def _lose(self, one: _Connection, intended: float) -> None:
        self._record(intended, LOST)
        self._busy = {number: other for number, other in self._busy.items() if other is not one}
        one.close()
        self._free.append(one)

    def _record(self, intended: float, status: int) -> None:
        self.records.append((intended, time.perf_counter() - self._start - intended, status))


class Load:
    """A client under way.

    Args:
        job: what it does.
    """

    def __init__(self, job: Job) -> None:
        self._job, self._folder = job, tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        (folder / "job.json").write_text(json.dumps(asdict(job)))
        words = [sys.executable, "-m", "benchmarks.serving_load", str(folder / "job.json"), str(folder / "out.npz")]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.begun = float(self._process.stdout.readline())

    def result(self) -> Measured:
        """Wait for the end."""
        with self._folder:
            if self._process.wait():
                raise RuntimeError(f"the client ended with {self._process.returncode}")
            assert self._process.stdout is not None
            self._process.stdout.close()
            with np.load(Path(self._folder.name) / "out.npz") as file:
                records, looks, answers = file["records"], file["looks"], json.loads(str(file["answers"]))
        counted = records[records[:, 0] >= self._job.warm]
        return Measured(
            counted[:, 0],
            counted[:, 1],
            counted[:, 2].astype(np.int64),
            self._job.seconds - self._job.warm,
            {(status, version, scores): number for status, version, scores, number in answers},
            slow_moments(looks),
            self._job.warm,
        )


def load(job: Job) -> Measured:
    """Run a client to its end."""
    return Load(job).result()


if __name__ == "__main__":
    client = _Client(Job(**json.loads(Path(sys.argv[1]).read_text())))
    client.run()
    listed = json.dumps([[*key, number] for key, number in client.answers.items()])
    records, looks = np.array(client.records).reshape(-1, 3), np.array(client.pulse.looks).reshape(-1, 2)
    np.savez(sys.argv[2], records=records, looks=looks, answers=np.array(listed))
