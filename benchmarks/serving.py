"""The scoring service under load: real `funnelcast serve` processes, a client of our own, raw latencies.

    python -m benchmarks.serving [PART ...] [--seconds 30] [--out build/bench-serving.json]

Figures hold for a machine that does nothing else, with a core for the service and one for the client. Parts:
capacity, latency, overload, slow, start, swaps, drain, kill, soak (twenty times as long), parity (which needs the
prepared KuaiRand rows). "calm" figures leave out what was sent about moments in which the machine itself was slow.
Bundles are made once into build/bench-serving.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """One figure of the service.

    Args:
        part: of the benchmark.
        name: what was measured.
        value: the figure.
        unit: of it.
        target: the figure that is aimed at with `>=` or `<=` before it, or nothing.
        note: how it was measured.
    """

    part: str
    name: str
    value: float
    unit: str
    target: str = ""
    note: str = ""

    @property
    def held(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if not self.target:
            return None
        sign, number = self.target.split()
        return self.value >= float(number) if sign == ">=" else self.value <= float(number)


Part = Callable[[float], list[Finding]]


def parts(prepared: Path, impressions: Path) -> dict[str, Part]:
    """All parts, in the order in which they are run.

    Args:
        prepared: KuaiRand, for `parity`.
        impressions: its raw rows.
    """
    from benchmarks import serving_faults, serving_speed
    from benchmarks.serving_parity import parity
    from benchmarks.serving_soak import soak

    return {
        "capacity": serving_speed.capacity,
        "latency": serving_speed.latency,
        "overload": serving_speed.overload,
        "slow": serving_speed.slow,
        "start": serving_speed.start,
        "swaps": serving_faults.swaps,
        "drain": serving_faults.drain,
        "kill": serving_faults.kill,
        "soak": soak,
        "parity": lambda _: parity(prepared, impressions),
    }


def show(findings: list[Finding]) -> None:
    """Print a table."""
    for one in findings:
        held = {None: "", True: "yes", False: "NO"}[one.held]
        print(
            f"{one.part:9} {one.name:44} {one.value:12,.4g} {one.unit:9} {one.target:9} {held:4} {one.note}", flush=True
        )


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="some of those above (default: all)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load a measurement (default 30)")
    parser.add_argument("--out", type=Path, default=Path("build/bench-serving.json"))
    parser.add_argument("--prepared", type=Path, default=Path("build/kuairand"), help="KuaiRand, for parity")
    parser.add_argument("--impressions", type=Path, default=Path("downloads/impressions.parquet"), help="its raw rows")
    options = parser.parse_args()
    known = parts(options.prepared, options.impressions)
    if unknown := [name for name in options.parts if name not in known]:
        parser.error(f"unknown part '{unknown[0]}'; the parts are: {', '.join(known)}")
    if options.seconds < 1:
        parser.error("--seconds should be at least 1")
    found: list[Finding] = []
    for name in options.parts or known:
        made = known[name](options.seconds)
        show(made)
        found += made
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"seconds": options.seconds, "findings": [{**asdict(one), "held": one.held} for one in found]}
    options.out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"{len(found)} figures -> {options.out}")


if __name__ == "__main__":
    main()
