"""The judge of executions is worth as much as what it sees: a sound order passes, and each doctored one is caught."""

import hashlib
import json
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import executions  # noqa: E402
from checker import execution, shop  # noqa: E402

# How the ids of the calls of the execution `o` begin, whose seed is 9.
CALLS = hashlib.sha256(b"default/order\no\n9").hexdigest()[:32]
INPUT = {"item": "lamp", "price": 300, "patience_ms": 1_000}
RECEIPT = {"reservation": 7, "item": "lamp", "paid": 300, "paid_at_ms": 1_040}
SHIPPED = {"item": "lamp", "reservation": 7, "ms": 20}


def document(call, payload, status="ok", **more):
    body = json.dumps(payload) if payload is not None else ""
    head = {"status": status, "id": call, "type": "application/json", "length": len(body), "attempts": 1, **more}
    return json.dumps(head) + "\n" + body


def linked(facts):
    """Entries as Redis has them, each chained to the one before it."""
    entries, link = [], ""
    for position, fact in enumerate(facts, 1):
        pairs = [(name, str(value)) for name, value in fact.items()]
        link = hashlib.sha1((link + "".join(f"{len(part)}:{part}" for pair in pairs for part in pair)).encode()).hexdigest()
        flat = [part.encode() for pair in [*pairs, ("chain", link)] for part in pair]
        entries.append([b"%d-0" % position, flat])
    return entries


def facts():
    """An order that is paid at once and shipped."""
    return [
        {"event": "started", "run": 1, "seed": 9, "type": "application/json", "payload": json.dumps(INPUT), "at": 1_000},
        {"event": "moved-to-digest", "digest": "d0", "at": 1_010},
        called(1, "echo", {"number": 7, "item": "lamp"}, 1_010),
        ended(1, {"number": 7, "item": "lamp"}, 1_020),
        {"event": "emitted", "step": 2, "name": "reserved", "type": "application/json", "payload": "7", "at": 1_030},
        {"event": "event-awaited", "step": 3, "name": "payment", "for": 1_000, "due": 2_030, "at": 1_030},
        {"event": "event-received", "id": "p", "name": "payment", "type": "application/json", "payload": '{"amount":300}', "at": 1_040},
        called(4, "sleep", SHIPPED, 1_050),
        ended(4, SHIPPED, 1_060),
        {"event": "completed", "type": "application/json", "payload": json.dumps(RECEIPT), "at": 1_070},
    ]


def called(step, function, payload, at):
    call = {"function": function, "call": f"{CALLS}.1.{step}", "type": "application/json", "payload": json.dumps(payload)}
    return {"event": "call-scheduled", "step": step, **call, "at": at}


def ended(step, payload, at):
    return {"event": "call-completed", "step": step, "result": document(f"{CALLS}.1.{step}", payload), "at": at}


class Redis:
    """As much of Redis as the judge asks for."""

    def __init__(self):
        self.facts = facts()
        self.entries = None
        self.state = {"state": "completed", "run": "1", "steps": "4", "wake": "0", "ended": "1070", "e:p": "7"}
        self.results = {
            "order:o": document("o", RECEIPT, digest="d0"),
            f"echo:{CALLS}.1.1": self.facts[3]["result"],
            f"sleep:{CALLS}.1.4": self.facts[8]["result"],
        }
        self.ledgers = {"echo": {f"{CALLS}.1.1 1": "1"}, "sleep": {f"{CALLS}.1.4 1": "1"}}
        self.added = {"echo": 1, "sleep": 1}
        self.counts = {}

    def __call__(self, command, key, *rest):
        place, _, rest_of_key = key.removeprefix("baton:{default").removeprefix("/").partition("}:")
        flat = lambda pairs: [part.encode() for pair in pairs.items() for part in pair]  # noqa: E731
        if command == "XRANGE":
            return self.entries or linked(self.facts)
        if command == "HGETALL" and rest_of_key.startswith("exec:"):
            entries = linked(self.facts)
            return flat({"length": str(len(entries)), "chain": entries[-1][1][-1].decode(), **self.state})
        if command == "HGETALL":
            return flat(self.ledgers.get(rest_of_key.split(":")[1], {}) if rest_of_key.startswith("kv:") else {})
        if command == "GET":
            text = self.results.get(f"{place}:{rest_of_key.removeprefix('result:')}")
            return text.encode() if text else None
        if command == "ZRANGE":
            return [b"o"]
        if command == "XINFO":
            return [b"entries-added", self.added["sleep" if "sleep" in rest[0] else "echo"]]
        return 1 if command == "EXISTS" else self.counts.get(f"{place}:{rest_of_key}", 0)


def judged(redis, **more):
    """What the judge finds."""
    plan = {
        "id": "o",
        "input": INPUT,
        "payments": [{"id": "p", "amount": 300, "position": 7}],
        "races": False,
        "cancelled": False,
        "answer": {"status": 200, "body": RECEIPT},
        **more,
    }
    judge = executions.Judge(redis, {"executions": [plan]})
    judge.executions()
    judge.services()
    judge.left()
    return judge.findings


class ExecutionsTest(unittest.TestCase):
    def caught(self, redis, *words, **more):
        findings = judged(redis, **more)
        self.assertTrue(any(all(word in finding for word in words) for finding in findings), findings)

    def test_a_sound_order_passes(self):
        self.assertEqual(judged(Redis()), [])

    def test_a_log_that_was_cut_changed_or_put_in_another_order_is_caught_where_it_was(self):
        sound = linked(facts())
        swapped = [*sound[:3], [b"4-0", sound[4][1]], [b"5-0", sound[3][1]], *sound[5:]]
        changed = facts()
        changed[6]["payload"] = '{"amount":301}'
        cases = {
            "position 1": sound[1:],
            "position 4": [*sound[:3], *sound[4:]],
            "its length": sound[:-1],
            "position 4:": swapped,
            "position 7": [*sound[:6], [b"7-0", [*linked(changed)[6][1][:-1], sound[6][1][-1]]], *sound[7:]],
            "position 8": [*linked(changed)[:7], *sound[7:]],
            "its chain": linked(changed),
            "position 11": [*sound, [b"1700000000000-0", sound[-1][1]]],
            "position 5": [*sound[:4], [b"5-1", sound[4][1]], *sound[5:]],
        }
        for words, entries in cases.items():
            redis = Redis()
            redis.entries = entries
            self.caught(redis, words)

    def test_facts_that_cannot_stand_where_they_stand_are_caught(self):
        again = facts()
        again.insert(4, ended(1, {}, 1_020))
        late = [*facts(), {"event": "cancelled", "at": 1_080}]
        skipped = [fact for fact in facts() if fact["event"] != "emitted"]
        twice = facts()
        twice.insert(7, twice[6])
        for words, doctored in [("does not wait", again), ("behind the end", late), ("step 3 after", skipped), ("second time", twice)]:
            redis = Redis()
            redis.facts = doctored
            self.caught(redis, words)

    def test_a_state_that_is_not_that_of_its_log_is_caught(self):
        for field, value in [("state", "running"), ("steps", "3"), ("run", "2"), ("wake", "1"), ("t:1:3", "1"), ("e:q", "3"), ("digest", "d0")]:
            redis = Redis()
            redis.state[field] = value
            self.caught(redis, "by its log")

    def test_another_end_than_that_of_the_function_is_caught(self):
        for at, name, value in [(9, "payload", json.dumps(RECEIPT | {"paid": 299})), (5, "for", 999), (4, "payload", "8"), (7, "call", f"{CALLS}.1.5")]:
            redis = Redis()
            redis.facts[at][name] = value
            self.assertTrue(judged(redis))
        redis = Redis()
        redis.results["order:o"] = document("o", RECEIPT | {"paid": 1}, digest="d0")
        self.caught(redis, "its result says")
        redis.results["order:o"] = document("o", RECEIPT, digest="d1")
        self.caught(redis, "it ran on d0")
        self.caught(Redis(), "its plan allows", input=INPUT | {"price": 301})
        self.caught(Redis(), "its caller was answered", answer={"status": 200, "body": {}})
        self.caught(Redis(), "its senders were told", payments=[{"id": "p", "amount": 300, "position": 6}])

    def test_calls_that_are_made_twice_or_by_nobody_are_caught(self):
        for ledger in [{f"{CALLS}.1.1 1": "2"}, {}, {f"{CALLS}.1.1 1": "1", "x.1.1 1": "1"}]:
            redis = Redis()
            redis.ledgers["echo"] = ledger
            self.assertTrue(judged(redis), ledger)
        redis = Redis()
        redis.added["sleep"] = 2
        self.caught(redis, "2 entries were added for 1 calls")
        redis = Redis()
        redis.results[f"echo:{CALLS}.1.1"] = document(f"{CALLS}.1.1", "other")
        self.caught(redis, "step 1 has 1 ends")

    def test_what_is_left_is_caught(self):
        redis = Redis()
        redis.counts["order:delayed"] = 1
        self.caught(redis, "1 are left in delayed")
        redis = Redis()
        redis.counts["order:timers"] = 1
        self.caught(redis, "1 are left in timers")

    def test_an_event_behind_the_time_out_does_not_count(self):
        timed = facts()[:6] + [{"event": "timer-fired", "step": 3, "at": 2_030}, facts()[6], called(4, "echo", "release 7", 2_040)]
        self.assertEqual(shop.replay("o", execution.read(linked(timed))[0])[0], "waits")
        released = [*timed, ended(4, "release 7", 2_050), {"event": "emitted", "step": 5, "name": "released", "payload": "7", "at": 2_060}]
        self.assertEqual(shop.replay("o", execution.read(linked(released))[0]), ("failed", "not-paid", "0 of 300 was paid in time"))


if __name__ == "__main__":
    unittest.main()
