"""Logs of executions: whether one is whole, and the state that its facts amount to."""

import hashlib
from dataclasses import dataclass, field

#: Facts by which a function asks for a step.
ASKED = ("call-scheduled", "timer-set", "event-awaited", "emitted")
#: Facts that answer a step, and what they answer.
ANSWERS = {"call-completed": ("call-scheduled",), "timer-fired": ("timer-set", "event-awaited")}
#: Facts that end an execution, which are the words of its state too.
ENDS = ("completed", "failed", "cancelled")
OTHERS = ("started", "event-received", "moved-to-digest")


class Damaged(Exception):
    """A log is not what it should be."""


@dataclass(frozen=True)
class Fact:
    """One entry of a log."""

    position: int
    word: str
    fields: dict = field(hash=False)

    def text(self, name):
        """A field as text; raises if there is none."""
        if name not in self.fields:
            raise Damaged(f"position {self.position}: {self.word} has no field {name}")
        return self.fields[name].decode()

    def number(self, name):
        """A field as a number."""
        return int(self.text(name))

    @property
    def step(self):
        return self.number("step")

    @property
    def at(self):
        """When Redis wrote it, in Unix milliseconds."""
        return self.number("at")


def read(entries):
    """The facts of a log from what XRANGE says, and its last link; raises [Damaged] at the first that does not fit."""
    facts, link = [], b""
    for position, (entry, flat) in enumerate(entries, 1):
        if entry != b"%d-0" % position:
            raise Damaged(f"position {position}: there stands the entry {entry.decode()}")
        pairs = list(zip(flat[::2], flat[1::2]))
        sha = hashlib.sha1(link)
        for part in (part for name, value in pairs if name != b"chain" for part in (name, value)):
            sha.update(b"%d:" % len(part) + part)
        link = sha.hexdigest().encode()
        fields = {name.decode(): value for name, value in pairs}
        if len(fields) != len(pairs):
            raise Damaged(f"position {position}: it has a field twice")
        if fields.get("chain") != link:
            raise Damaged(f"position {position}: it is chained as {fields.get('chain')}, and should be as {link}")
        facts.append(Fact(position, fields.get("event", b"").decode(), fields))
    return facts, link.decode()


@dataclass
class State:
    """What the facts of a log amount to: what Redis should have beside it."""

    state: str = "running"
    run: int = 0
    length: int = 0
    chain: str = ""
    steps: int = 0
    #: the component that it runs on; none once it has ended
    digest: str | None = None
    #: `c:<run>:<step>` and `t:<run>:<step>` of what is asked for and not answered
    waits: set = field(default_factory=set)
    #: event id -> position
    events: dict = field(default_factory=dict)


def fold(entries):
    """The state after all of a log. Raises [Damaged] if a fact cannot stand where it stands."""
    facts, link = read(entries)
    state = State(length=len(facts), chain=link)
    asked, answered = {}, set()
    for fact in facts:
        take(state, fact, asked, answered)
    open_steps = set() if state.state in ENDS else set(asked) - answered
    for step in open_steps:
        # Calls made together are all open; of a pause only that which the function has not gone on from.
        if asked[step].word == "call-scheduled":
            state.waits.add(f"c:{state.run}:{step}")
        elif step == state.steps and "due" in asked[step].fields:
            state.waits.add(f"t:{state.run}:{step}")
    if state.state in ENDS:
        state.digest = None
    return state


def take(state, fact, asked, answered):
    """Takes in one fact."""

    def damaged(what):
        raise Damaged(f"position {fact.position}: {fact.word} {what}")

    if state.state in ENDS:
        damaged("stands behind the end")
    if (fact.word == "started") != (fact.position == 1):
        damaged("stands where it may not")
    if fact.word in ASKED:
        if fact.step != state.steps + 1:
            damaged(f"is step {fact.step} after step {state.steps}")
        state.steps = fact.step
        asked[fact.step] = fact
    elif fact.word in ANSWERS:
        of = asked.get(fact.step)
        if of is None or of.word not in ANSWERS[fact.word] or fact.step in answered:
            damaged(f"answers step {fact.step}, which does not wait for it")
        if of.word == "event-awaited" and "due" not in of.fields:
            damaged(f"answers step {fact.step}, which has no patience")
        answered.add(fact.step)
    elif fact.word == "started":
        state.run = fact.number("run")
    elif fact.word == "event-received":
        if fact.text("id") in state.events:
            damaged(f"has the id {fact.text('id')} a second time")
        state.events[fact.text("id")] = fact.position
    elif fact.word == "moved-to-digest":
        state.digest = fact.text("digest")
    elif fact.word in ENDS:
        state.state = fact.word
    else:
        damaged("is unknown")


def differences(state, known):
    """In what the state that Redis has beside a log is not that of the log: sentences. `known` is HGETALL."""
    known = {name.decode(): value.decode() for name, value in zip(known[::2], known[1::2])}
    found = []
    expected = {
        "state": state.state,
        "run": str(state.run),
        "length": str(state.length),
        "chain": state.chain,
        "steps": str(state.steps),
        "wake": "0",
        "digest": state.digest,
    }
    for name, value in expected.items():
        if known.get(name) != value:
            found.append(f"its {name} is {known.get(name)!r}, and by its log {value!r}")
    waits = {name for name in known if name[:2] in ("c:", "t:")}
    if waits != state.waits:
        found.append(f"it waits for {sorted(waits)}, and by its log for {sorted(state.waits)}")
    # Behind the position stands the run in which it came.
    events = {name[2:]: int(position.split()[0]) for name, position in known.items() if name[:2] == "e:"}
    if events != state.events:
        found.append(f"its events are {events}, and by its log {state.events}")
    if ("ended" in known) != (state.state in ENDS):
        found.append(f"by its log it is {state.state}, and it ended: {known.get('ended')}")
    return found
