"""What Redis wrote into its append-only file, replayed: who owned which entry when, and what was done in which order.

The file has every change that Redis ever made, one after the other, whatever died in between. Scripts and transactions
stand in it as what they did."""

from dataclasses import dataclass, field
from .document import documents
from .resp import commands

#: What stands behind the names of streams and claims of other than normal calls, and behind the ids of their entries here.
LEVELS = {":high": "-high", ":low": "-low"}

#: Fields of an entry that a host has put back; callers never write them.
PUT_BACK = (b"attempt", b"accepted")


@dataclass
class Ledger:
    """The state while it is replayed, and what was found wrong on the way: (invariant, function, call id, what)."""

    prefix: str
    group: str
    wrong: list = field(default_factory=list)
    #: function -> entry id, with its level behind it -> fields
    entries: dict = field(default_factory=dict)
    #: function -> entry id, with its level behind it -> owner
    owners: dict = field(default_factory=dict)
    #: function -> entry id, with its level behind it -> how often it was claimed from a host that was lost
    counted: dict = field(default_factory=dict)
    #: (function, call id) -> the document that stands
    results: dict = field(default_factory=dict)
    #: (function, call id) -> how many entries callers made
    submitted: dict = field(default_factory=dict)
    #: (function, call id) -> the payload
    payloads: dict = field(default_factory=dict)
    #: calls from before the last FLUSHALL
    flushed: set = field(default_factory=set)
    #: (function, call id, time in ms by Redis's clock, from, to) of each entry that changed its owner
    claims: list = field(default_factory=list)
    written: int = 0
    dead: int = 0
    commands: int = 0
    is_there: bool = True

    def function(self, key):
        """`T/F` of a key of a function, what it is, and of which level ("" = normal); None for others."""
        if not key.startswith(self.prefix + ":{"):
            return None
        function, _, rest = key[len(self.prefix) + 2 :].partition("}:")
        level = ""
        for name, suffix in LEVELS.items():
            if rest in ("calls" + name, "claims" + name):
                rest, level = rest.removesuffix(name), suffix
        return (function, rest, level) if "/" in function else None

    def call_of(self, stream, entry):
        """The call's id: the field `id`, or the entry's own."""
        fields = self.entries.get(stream, {}).get(entry, {})
        return fields.get(b"id", entry.encode()).decode()

    def transaction(self, batch):
        """Takes in commands that Redis did in one step."""
        for words in batch:
            self.commands += 1
            name = words[0].upper()
            if name == b"FLUSHALL":
                self.flush()
                continue
            if name == b"XGROUP" and words[1].upper() == b"DELCONSUMER":
                self.leave(words)
                continue
            place = self.function(words[1].decode()) if len(words) > 1 else None
            if place is None:
                continue
            function, rest, level = place
            if name == b"XADD" and rest == "calls":
                self.add(function, words, level)
            elif name == b"XADD" and rest == "dead":
                self.dead += 1
            elif name == b"XCLAIM" and rest == "calls":
                self.claim(function, words, level)
            elif name == b"HINCRBY" and rest == "claims":
                counted, entry = self.counted.setdefault(function, {}), words[2].decode() + level
                counted[entry] = counted.get(entry, 0) + int(words[3])
            elif name == b"HDEL" and rest == "claims":
                for entry in words[2:]:
                    self.counted.get(function, {}).pop(entry.decode() + level, None)
            elif name == b"SET" and rest.startswith("result:"):
                self.result(function, rest.removeprefix("result:"), words[2])
            elif name == b"XACK" and rest == "calls":
                self.acknowledge(function, [word.decode() + level for word in words[3:]], batch)
            elif name == b"XDEL" and rest == "calls":
                self.delete(function, [word.decode() + level for word in words[2:]])
            elif name == b"XTRIM" and rest == "calls":
                self.wrong.append(("I1", function, None, "the call stream was trimmed"))
            elif name in (b"DEL", b"UNLINK") and rest.startswith("result:"):
                self.wrong.append(("I1", function, rest.removeprefix("result:"), "its result was deleted"))

    def flush(self):
        for function, entries in self.entries.items():
            self.flushed |= {(function, self.call_of(function, entry)) for entry in entries}
        self.flushed |= set(self.submitted)
        self.entries.clear()
        self.owners.clear()
        self.counted.clear()
        self.results.clear()
        self.submitted.clear()

    def add(self, function, words, level):
        words = [word for word in words if word.upper() != b"NOMKSTREAM"]
        entry, fields = words[2].decode() + level, dict(zip(words[3::2], words[4::2]))
        self.entries.setdefault(function, {})[entry] = fields
        call = (function, fields.get(b"id", entry.encode()).decode())
        self.payloads[call] = fields.get(b"payload", b"")
        if not any(name in fields for name in PUT_BACK):
            self.submitted[call] = self.submitted.get(call, 0) + 1

    def claim(self, function, words, level):
        owner, options = words[3].decode(), words[5:]
        ids, ms = [], 0
        while options and options[0][:1].isdigit():
            ids.append(options.pop(0).decode() + level)
        if b"TIME" in options:
            ms = int(options[options.index(b"TIME") + 1])
        owners = self.owners.setdefault(function, {})
        for entry in ids:
            before = owners.get(entry)
            if before is not None and before != owner:
                self.claims.append((function, self.call_of(function, entry), ms, before, owner))
            owners[entry] = owner

    def result(self, function, call, data):
        self.written += 1
        key = (function, call)
        try:
            (document,) = documents(data)
        except (ValueError, KeyError):
            self.wrong.append(("I1", function, call, f"its result is no document: {data[:200]!r}"))
            return
        if key in self.results:
            self.wrong.append(("I1", function, call, "a second result was written over its first"))
        self.results[key] = document
        self.fence(function, call, document)

    def fence(self, function, call, document):
        """Whether who wrote a result held the lease of that very attempt."""
        host = document.head.get("host")
        if not host:
            return
        owners = self.owners.get(function, {})
        held = {entry: owner for entry, owner in owners.items() if self.call_of(function, entry) == call}
        if host not in held.values():
            if held or (function, call) not in self.flushed:
                owned = ", ".join(sorted(set(held.values()))) or "nobody"
                self.wrong.append(("I5", function, call, f"{host} wrote its result while {owned} held its lease"))
            return
        attempts = {self.attempt(function, entry) for entry, owner in held.items() if owner == host}
        # A call that was given up or had expired before it began has one attempt fewer.
        if document.status in ("ok", "error") and document.head["attempts"] not in attempts:
            told = f"{host} wrote the result of attempt {document.head['attempts']} while it held the lease of {sorted(attempts)}"
            self.wrong.append(("I5", function, call, told))

    def attempt(self, function, entry):
        """Which attempt an entry is for: what stands in it, and one more for each claim."""
        fields = self.entries.get(function, {}).get(entry, {})
        return int(fields.get(b"attempt", b"1")) + self.counted.get(function, {}).get(entry, 0)

    def acknowledge(self, function, entries, batch):
        put_back = set()
        for words in batch:
            name = words[0].upper()
            place = self.function(words[1].decode()) if name == b"XADD" else None
            if place is not None and place[1] == "calls":
                fields = dict(zip(words[3::2], words[4::2]))
                put_back.add(fields.get(b"id", b"").decode())
            elif name == b"ZADD":
                put_back.add(words[3])
        packed = [member for member in put_back if isinstance(member, bytes)]
        for entry in entries:
            self.owners.get(function, {}).pop(entry, None)
            call = self.call_of(function, entry)
            is_back = call in put_back or any(call.encode() in member for member in packed)
            known = entry in self.entries.get(function, {})
            if known and (function, call) not in self.results and not is_back:
                self.wrong.append(("I1", function, call, "it was acknowledged before there was a result"))

    def delete(self, function, entries):
        for entry in entries:
            if entry in self.owners.get(function, {}):
                call = self.call_of(function, entry)
                self.wrong.append(("I1", function, call, "its entry was deleted while it was pending"))
            self.entries.get(function, {}).pop(entry, None)

    def leave(self, words):
        place = self.function(words[2].decode())
        if place is None:
            return
        function, level, consumer = place[0], place[2], words[4].decode()
        owners = self.owners.get(function, {})
        left = [entry for entry, owner in owners.items() if owner == consumer and level_of(entry) == level]
        for entry in left:
            call = self.call_of(function, entry)
            self.wrong.append(("I7", function, call, f"the consumer {consumer} was deleted while it had it"))
            del owners[entry]


def level_of(entry):
    """What stands behind an entry's id for its level."""
    return next((suffix for suffix in LEVELS.values() if entry.endswith(suffix)), "")


def replay(data, prefix="baton", group="hosts"):
    """Replays an append-only file."""
    ledger = Ledger(prefix, group)
    batch = None
    for words in commands(data):
        name = words[0].upper()
        if name == b"MULTI":
            batch = []
        elif name == b"EXEC":
            ledger.transaction(batch or [])
            batch = None
        elif batch is not None:
            batch.append(words)
        else:
            ledger.transaction([words])
    return ledger


def read(run, directory):
    """The append-only file in a directory, as its manifest lists its parts; an empty ledger if Redis kept none."""
    manifests = sorted(directory.glob("*.manifest"))
    if not manifests:
        ledger = Ledger(run["prefix"], run["group"])
        ledger.is_there = False
        return ledger
    data = b""
    for line in manifests[-1].read_text().splitlines():
        words = line.split()
        if "type" in words and words[words.index("type") + 1] == "i":
            data += (directory / words[words.index("file") + 1]).read_bytes()
    return replay(data, run["prefix"], run["group"])
