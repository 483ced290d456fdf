"""What a campaign found: counts, and every fault with what brought it about."""

import collections
import dataclasses
import json
import sys
import time
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that went wrong.

    Attributes:
        kind: of the trial.
        subject: a script or a loader.
        trial: what was done to it.
        wrong: what happened.
    """

    kind: str
    subject: str
    trial: str
    wrong: str


class Report:
    """Counts trials and keeps the faults."""

    def __init__(self, *, loud: bool = True):
        self.trials: collections.Counter[str] = collections.Counter()
        self.by_subject: dict[str, collections.Counter[str]] = {}
        self.notes: collections.Counter[str] = collections.Counter()
        self.faults: list[Fault] = []
        self._loud = loud
        self._start = time.monotonic()

    def count(self, kind: str, number: int = 1) -> None:
        """Counts what is not a trial of its own."""
        self.notes[kind] += number

    def add(self, kind: str, subject: str, trial: str, wrong: str) -> None:
        """One trial; `wrong` is empty where all is well."""
        self.trials[kind] += 1
        self.by_subject.setdefault(kind, collections.Counter())[subject] += 1
        if wrong:
            self.faults.append(Fault(kind, subject, trial, wrong))
        if self._loud and (wrong or kind.startswith(("runs killed", "kills"))):
            said = f"FAULT {wrong}" if wrong else "ok"
            since = time.monotonic() - self._start
            sys.stdout.write(f"{since:6.0f} s [{kind}] {subject}: {trial}: {said}\n")
            sys.stdout.flush()

    def as_json(self) -> dict:
        """Everything, for machines."""
        return {
            "trials": dict(self.trials),
            "counts": dict(self.notes),
            "by_subject": {kind: dict(counts) for kind, counts in self.by_subject.items()},
            "faults": [dataclasses.asdict(fault) for fault in self.faults],
            "seconds": round(time.monotonic() - self._start, 1),
        }

    def write(self, file: Path) -> None:
        """Writes the JSON."""
        file.write_text(json.dumps(self.as_json(), indent=1) + "\n")

    def table(self) -> str:
        """Counts, in Markdown."""
        lines = ["| trial | number | faults |", "|---|--:|--:|"]
        wrong = collections.Counter(fault.kind for fault in self.faults)
        lines += [f"| {kind} | {n} | {wrong[kind]} |" for kind, n in self.trials.items()]
        lines += [f"| {kind} | {n} | |" for kind, n in self.notes.items()]
        return "\n".join(lines)
