"""Reads the histories of a run: what callers, guests and the player of faults wrote down."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from .document import Document, documents


@dataclass
class Call:
    """One call and everything its caller was told."""

    n: int
    function: str
    way: str
    name: str | None
    payload: str
    sent: float
    #: (time, id) of each time that it was accepted
    accepted: list = field(default_factory=list)
    #: times at which nobody said whether it was accepted
    unsure: list = field(default_factory=list)
    refused: int = 0
    #: (time, verb, status, id, body) of each answer over HTTP
    answers: list = field(default_factory=list)

    @property
    def tenant(self):
        return self.function.split("/")[0]

    @property
    def id(self):
        return self.name or (self.accepted[0][1] if self.accepted else None)

    @property
    def key(self):
        return (self.function, self.id)


@dataclass
class Sight:
    """A result document as somebody saw it."""

    t: float
    function: str
    via: str
    document: Document


@dataclass
class Execution:
    """One attempt, as its guest told it and the collector saw it."""

    x: str
    slot: int
    tenant: str
    id: str
    attempt: int
    build: str
    k: str
    begin: float
    end: float | None = None
    end_build: str | None = None
    #: when its connection was gone; None if it still stood at the end
    gone: float | None = None

    @property
    def over(self):
        """When it was over: told, or seen."""
        return self.end if self.end is not None else self.gone


@dataclass
class Fault:
    """Something that was broken for a time. `slot` is None for what everybody shares."""

    n: int
    kind: str
    slot: int | None
    host: str | None
    t: float
    whole: float | None = None
    facts: dict = field(default_factory=dict)


@dataclass
class History:
    """Everything that was written down."""

    run: dict
    calls: dict = field(default_factory=dict)
    sights: list = field(default_factory=list)
    executions: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    builds: dict = field(default_factory=dict)
    #: (time, slot, host id, what) of hosts that came and went
    hosts: list = field(default_factory=list)
    #: what was seen that is no document at all
    broken: list = field(default_factory=list)
    #: (memory in KB, open files, maps) of the host that is spared, now and then
    samples: list = field(default_factory=list)
    #: when the last fault was over
    quiet: float | None = None

    @property
    def flushes(self):
        return [fault for fault in self.faults if fault.kind == "flush-all"]


def lines(path):
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def load(directory):
    """Reads the histories in a directory."""
    directory = Path(directory)
    history = History(json.loads((directory / "run.json").read_text()))
    for line in lines(directory / "callers.jsonl"):
        caller(history, line)
    begun = {}
    for line in lines(directory / "guests.jsonl"):
        guest(history, begun, line)
    open_faults = {}
    for line in lines(directory / "faults.jsonl"):
        world(history, open_faults, line)
    return history


def caller(history, line):
    """Takes in one line of a caller."""
    what, t = line["ev"], line["t"]
    if what == "send":
        fields = (line["n"], line["function"], line["way"], line["id"], line["payload"], t)
        history.calls[line["n"]] = Call(*fields)
    elif what == "accepted":
        history.calls[line["n"]].accepted.append((t, line["detail"]))
    elif what == "unsure":
        history.calls[line["n"]].unsure.append(t)
    elif what == "refused":
        history.calls[line["n"]].refused += 1
    elif what == "answer":
        history.calls[line["n"]].answers.append((t, line["verb"], line["status"], line["id"], line["body"]))
    elif what in ("seen", "notice"):
        if what == "seen":
            function, text = line["key"].split("{")[1].split("}")[0], line["document"]
        else:
            function, text = "/".join(line["channel"].split(".")[1:]), line["text"]
        try:
            found = documents(text)
        except (ValueError, KeyError) as error:
            history.broken.append((t, function, what, f"{error}: {text[:200]!r}"))
            return
        history.sights += [Sight(t, function, what, document) for document in found]


def guest(history, begun, line):
    """Takes in one line of the collector."""
    x, t = line["x"], line["t"]
    if line["ev"] == "begin":
        slot, attempt = int(line["slot"]), int(line["attempt"])
        execution = Execution(x, slot, line["tenant"], line["id"], attempt, line["build"], line["k"], t)
        begun[x] = execution
        history.executions.append(execution)
    elif line["ev"] == "end":
        begun[x].end, begun[x].end_build = t, line["build"]
    else:
        begun[x].gone = t


def world(history, open_faults, line):
    """Takes in one line of the player of faults."""
    what, t = line["ev"], line["t"]
    if what == "build":
        history.builds[line["build"]] = {"witness": line["witness"], "echo": line["echo"]}
    elif what == "fault":
        fault = Fault(line["n"], line["fault"], line.get("slot"), line.get("host"), t)
        if fault.kind == "kill-nameless":
            fault.slot = None
        open_faults[fault.n] = fault
        history.faults.append(fault)
    elif what == "whole":
        open_faults[line["n"]].whole = t
        open_faults[line["n"]].facts = line
    elif what.startswith("host-"):
        history.hosts.append((t, line["slot"], line.get("host"), line.get("how", what)))
    elif what == "sample":
        history.samples.append((line["rss_kb"], line["files"], line["maps"]))
    elif what == "quiet":
        history.quiet = t
