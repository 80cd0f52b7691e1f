"""What is in Redis when nothing moves any more."""

import json
import time
from dataclasses import dataclass, field

from .document import documents
from .ledger import LEVELS
from .resp import Redis, RespError

#: How long hosts may take to be done with everything; what is not done then is named.
QUIET_WITHIN_S = 60.0


@dataclass
class Snapshot:
    """Redis at the end of a run."""

    #: (function, call id) -> document
    results: dict = field(default_factory=dict)
    #: (function, call id, reason, payload) of each dead letter
    dead: list = field(default_factory=list)
    #: what should not be there: sentences
    left: list = field(default_factory=list)
    #: seconds until nothing moved; None if that did not come
    quiet_after: float | None = 0.0

    def save(self, path):
        """Keeps it, so that the run can be judged again when its Redis is gone."""
        results = [[*key, document.raw] for key, document in self.results.items()]
        facts = {"results": results, "dead": self.dead, "left": self.left, "quiet_after": self.quiet_after}
        path.write_text(json.dumps(facts))


def kept(path):
    """What a snapshot has saved."""
    facts = json.loads(path.read_text())
    results = {(function, call): documents(raw)[0] for function, call, raw in facts["results"]}
    return Snapshot(results, [tuple(letter) for letter in facts["dead"]], facts["left"], facts["quiet_after"])


def wait(redis, prefix, functions, within=QUIET_WITHIN_S):
    """Waits until no stream has an entry, nothing is pending and nothing is delayed. Gives the seconds, or None."""
    start = time.monotonic()
    while time.monotonic() - start < within:
        moving = 0
        for function in functions:
            for level in ["", *LEVELS]:
                moving += redis("XLEN", f"{prefix}:{{{function}}}:calls{level}")
            moving += redis("ZCARD", f"{prefix}:{{{function}}}:delayed")
        if moving == 0:
            return time.monotonic() - start
        time.sleep(0.1)
    return None


def take(run, functions, within=QUIET_WITHIN_S):
    """Waits for quiet and looks at every key."""
    redis = Redis(run["redis"])
    prefix = run["prefix"]
    snapshot = Snapshot()
    snapshot.quiet_after = wait(redis, prefix, functions, within)
    keys, cursor = set(), b"0"
    while True:
        cursor, page = redis("SCAN", cursor, "COUNT", 1000)
        keys |= {key.decode() for key in page}
        if cursor == b"0":
            break
    for function in functions:
        for level in ["", *LEVELS]:
            look(redis, run, function, level, snapshot)
    for key in sorted(keys):
        sort(redis, prefix, key, snapshot)
    online = {name.decode() for name in redis("SMEMBERS", f"{prefix}:{{hosts}}:online")}
    for host in online - set(run["live_hosts"]):
        snapshot.left.append(f"{host} is listed as online, and does not live")
    for host in set(run["live_hosts"]) - online:
        snapshot.left.append(f"{host} lives, and is not listed as online")
    return snapshot


def look(redis, run, function, level, snapshot):
    """One function's stream of one level, and its consumers."""
    stream = f"{run['prefix']}:{{{function}}}:calls{level}"
    if level and not redis("EXISTS", stream):
        return
    for entry, fields in redis("XRANGE", stream, "-", "+", "COUNT", 20):
        snapshot.left.append(f"{function}: the entry {entry.decode()} is still there: {fields[:4]!r}")
    try:
        pending = redis("XPENDING", stream, run["group"])
        consumers = redis("XINFO", "CONSUMERS", stream, run["group"])
    except RespError as error:
        snapshot.left.append(f"{function}: {error}")
        return
    if pending[0]:
        snapshot.left.append(f"{function}: {pending[0]} entries are pending: {pending[3]!r}")
    for row in consumers:
        facts = dict(zip(row[::2], row[1::2]))
        name = facts[b"name"].decode()
        if name not in run["live_hosts"]:
            snapshot.left.append(f"{function}: the consumer {name} belongs to no host that lives")


def level_in(rest):
    """The level with which the name of a key ends; nothing for most."""
    return next((level for level in LEVELS if rest.endswith(level)), "")


def sort(redis, prefix, key, snapshot):
    """One key: what it is, or that nobody knows it."""
    place, _, rest = key.removeprefix(prefix + ":{").partition("}:")
    if not key.startswith(prefix + ":{"):
        snapshot.left.append(f"nobody knows the key {key}")
    elif rest.startswith("result:"):
        call = (place, rest.removeprefix("result:"))
        (snapshot.results[call],) = documents(redis("GET", key) or b"{}")
    elif rest == "dead":
        for _, fields in redis("XRANGE", key, "-", "+"):
            facts = dict(zip(fields[::2], fields[1::2]))
            words = (facts.get(name, b"").decode(errors="replace") for name in (b"id", b"reason", b"payload"))
            snapshot.dead.append((place, *words))
    elif rest == "letters":
        named = redis("HGETALL", key)
        for call, letter in zip(named[::2], named[1::2]):
            if not redis("XRANGE", f"{prefix}:{{{place}}}:dead", letter, letter):
                snapshot.left.append(f"{key} names a letter of {call!r} that is not there: {letter!r}")
    elif rest.removesuffix(level_in(rest)) == "claims":
        snapshot.left.append(f"claims are left in {key}: {redis('HGETALL', key)!r}")
    elif rest in ("delayed", "timers"):
        snapshot.left.append(f"calls wait in {key}")
    elif place != "hosts" and rest.removesuffix(level_in(rest)) != "calls":
        snapshot.left.append(f"nobody knows the key {key}")
