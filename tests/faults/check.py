#!/usr/bin/env python3
"""Judges a run of the fault suite: check.py DIRECTORY

Reads the histories there, Redis (which still runs) and its append-only file, and holds them against the invariants.
Exit status 0: all hold; 1: one is broken; 3: nothing could be judged. Python 3.11, no other library."""

import argparse
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from checker import history, ledger, report, snapshot  # noqa: E402
from checker.invariants import Evidence, judge  # noqa: E402

SHOWN = 15


def main():
    """Judges one run."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("directory", type=Path)
    arguments.add_argument("--again", action="store_true", help="judge what is kept there; its Redis is gone")
    given = arguments.parse_args()
    directory = given.directory
    told = history.load(directory)
    functions = sorted({call.function for call in told.calls.values()})
    if given.again:
        seen, file = snapshot.kept(directory / "snapshot.json"), directory / "appendonlydir"
    else:
        seen, file = snapshot.take(told.run, functions), Path(told.run["redis_dir"]) / "appendonlydir"
        seen.save(directory / "snapshot.json")
    evidence = Evidence(told, ledger.read(told.run, file), seen)
    findings = judge(evidence)
    figures = report.summary(evidence, findings)
    report.write(directory, evidence, findings, figures)
    print(report.table(figures))
    for finding in findings[:SHOWN]:
        print(f"\n{finding.invariant} {finding.function or ''} {finding.call or ''}\n  {finding.what}")
    if findings:
        print(f"\n{len(findings)} findings; {directory / 'timeline.txt'} has what led to them")
        print(f"the same again: baton-faults --seed {told.run['seed']}")
    return 1 if findings else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:  # noqa: BLE001 - an error of the checker is no verdict on the run
        traceback.print_exc()
        sys.exit(3)
