"""Run every benchmark in a process of its own and write `build/bench.json`.

python -m benchmarks [--out build/bench.json] [--threads 1] [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# In the order of the table; `prepare` and `peers` have commands of their own, since they take minutes and gigabytes.
BENCHMARKS = ["apem", "models", "auc", "loader", "export"]


def main() -> None:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown benchmark '{unknown[0]}'; the benchmarks are: {', '.join(BENCHMARKS)}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "passive"}
    results: list[object] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or BENCHMARKS:
            part = Path(folder) / f"{name}.json"
            command = [sys.executable, "-m", f"benchmarks.{name}", "--threads", str(options.threads)]
            print(f"== {name}", flush=True)
            subprocess.run([*command, "--json", str(part)], check=True, env=environment)
            results += json.loads(part.read_text())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{len(results)} figures -> {options.out}")


if __name__ == "__main__":
    main()
