"""The checker is worth as much as what it sees: a sound run passes, and each doctored one is caught by its invariant."""

import copy
import json
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from checker import history, ledger, report, resp  # noqa: E402
from checker.document import documents, fnv1a  # noqa: E402
from checker.invariants import Evidence, judge  # noqa: E402
from checker.snapshot import Snapshot, kept  # noqa: E402

RUN = {"seed": 1, "prefix": "baton", "group": "hosts", "durability": "always", "lease_ms": 4_000, "live_hosts": ["a", "b"]}
BUILDS = {"build-000000": {"witness": "w0", "echo": "e0"}, "build-000001": {"witness": "w1", "echo": "e1"}}
#: A time at which nothing has been broken for long.
CALM = 100_000.0


def payload(tenant, n, mode="ok"):
    return json.dumps({"k": f"{tenant}-secret-{n}", "ms": 100, "mode": mode, "pad": ""}, separators=(",", ":"))


def line(call, host="a", status="ok", body="", **more):
    """A result document as Redis has it."""
    head = {"status": status, "id": call, "type": "application/json", "length": len(body), "attempts": 1, "host": host, **more}
    return json.dumps(head) + "\n" + body


def witnessed(tenant, n, call, host="a", build="build-000000"):
    total = fnv1a((build + payload(tenant, n)).encode())
    body = json.dumps({"k": f"{tenant}-secret-{n}", "build": build, "sum": f"{total:016x}"}, separators=(",", ":"))
    return line(call, host, body=body, digest=BUILDS[build]["witness"])


def altered(document, old, new):
    """The document with other words in it, and with its length told rightly."""
    head, _, body = document.replace(old, new, 1 if old == '"sum":"' else -1).partition("\n")
    return json.dumps(json.loads(head) | {"length": len(body)}) + "\n" + body


class Book:
    """A run that is written by hand: three calls, each read by a host and settled."""

    def __init__(self):
        self.run, self.callers, self.guests, self.faults, self.aof = RUN, [], [], [], []
        self.results, self.dead, self.left, self.quiet_after = {}, [], [], 0.1
        for name, digests in BUILDS.items():
            self.faults.append({"ev": "build", "build": name, **digests, "t": 0})
        for slot, host in enumerate(RUN["live_hosts"]):
            self.faults.append({"ev": "host-ready", "slot": slot, "host": host, "t": 0})
        self.call(1, "default/witness", "1-0")
        self.call(2, "acme/witness", "2-0", name="mine", host="b")
        self.call(3, "default/echo", "3-0")

    def redis(self, *words):
        """What Redis writes into its file."""
        self.aof.append([word if isinstance(word, bytes) else str(word).encode() for word in words])

    def read(self, function, entry, host, t=CALM, level=""):
        stream = f"baton:{{{function}}}:calls{level}"
        self.redis("XCLAIM", stream, "hosts", host, 0, entry, "TIME", int(t), "RETRYCOUNT", 1, "FORCE", "JUSTID", "LASTID", entry)

    def settle(self, function, entry, call, document):
        stream = f"baton:{{{function}}}:calls"
        self.redis("MULTI")
        self.redis("SET", f"baton:{{{function}}}:result:{call}", document, "NX", "PXAT", 1)
        self.redis("XACK", stream, "hosts", entry)
        self.redis("XDEL", stream, entry)
        self.redis("EXEC")

    def call(self, n, function, entry, name=None, host="a", t=CALM):
        tenant, call = function.split("/")[0], name or entry
        sent = payload(tenant, n)
        way = "redis-named" if name else "redis"
        self.callers.append({"ev": "send", "n": n, "function": function, "way": way, "id": name, "payload": sent, "t": t})
        self.callers.append({"ev": "accepted", "n": n, "detail": call, "t": t + 1})
        if function.endswith("/witness"):
            document = witnessed(tenant, n, call, host)
            self.attempt(str(n), tenant, call, n, RUN["live_hosts"].index(host), t + 2, t + 100)
        else:
            document = line(call, host, body=sent, digest="e0")
        fields = ["id", name] if name else []
        self.redis("XADD", f"baton:{{{function}}}:calls", entry, "payload", sent, *fields)
        self.read(function, entry, host, t)
        self.settle(function, entry, call, document)
        self.callers.append({"ev": "seen", "key": f"baton:{{{function}}}:result:{call}", "document": document, "t": t + 110})
        self.results[(function, call)] = document

    def attempt(self, x, tenant, call, n, slot, begin, end, attempt=1, build="build-000000", gone=True):
        self.guests.append({"ev": "begin", "x": x, "slot": slot, "tenant": tenant, "id": call, "attempt": attempt,
                            "build": build, "k": f"{tenant}-secret-{n}", "t": begin})
        if end is not None:
            self.guests.append({"ev": "end", "x": x, "build": build, "t": end})
        if gone:
            self.guests.append({"ev": "gone", "x": x, "t": (end or begin) + 1})

    def fault(self, n, kind, t, whole, slot=None, **facts):
        host = None if slot is None else RUN["live_hosts"][slot]
        self.faults.append({"ev": "fault", "n": n, "fault": kind, "slot": slot, "host": host, "t": t})
        self.faults.append({"ev": "whole", "n": n, "fault": kind, "t": whole, **facts})

    def evidence(self):
        """As the checker reads it."""
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            (directory / "run.json").write_text(json.dumps(self.run))
            for book in ("callers", "guests", "faults"):
                text = "".join(json.dumps(line) + "\n" for line in getattr(self, book))
                (directory / f"{book}.jsonl").write_text(text)
            told = history.load(directory)
            results = {key: documents(text)[0] for key, text in self.results.items()}
            Snapshot(results, self.dead, self.left, self.quiet_after).save(directory / "snapshot.json")
            seen = kept(directory / "snapshot.json")
        data = b"".join(b"*%d\r\n" % len(c) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in c) for c in self.aof)
        return Evidence(told, ledger.replay(data), seen)

    def broken(self):
        """The names of the invariants that do not hold, and what is said."""
        findings = judge(self.evidence())
        return {finding.invariant for finding in findings}, [finding.what for finding in findings]


class Checker(unittest.TestCase):
    def setUp(self):
        self.book = Book()

    def caught(self, invariant, word=""):
        names, told = self.book.broken()
        self.assertIn(invariant, names, told)
        self.assertTrue(any(word in what for what in told), told)

    def passes(self):
        self.assertEqual(self.book.broken(), (set(), []))

    def test_a_sound_run_passes_and_its_figures_add_up(self):
        self.passes()
        evidence = self.book.evidence()
        figures = report.summary(evidence, [])
        self.assertEqual((figures["calls"], figures["accepted"], figures["executions"], figures["lost"]), (3, 3, 2, 0))
        self.assertIn("holds", report.table(figures))

    def test_a_call_without_a_result_is_lost(self):
        del self.book.results[("default/witness", "1-0")]
        self.caught("I1", "lost")
        evidence = self.book.evidence()
        findings = judge(evidence)
        self.assertEqual(report.summary(evidence, findings)["lost"], 1)
        self.assertIn("default/witness 1-0: sent over redis", report.timeline(evidence, findings))

    def test_what_flushall_took_is_not_lost_and_what_came_later_is(self):
        del self.book.results[("default/witness", "1-0")]
        self.book.callers = [row for row in self.book.callers if "1-0" not in row.get("key", "")]
        self.book.fault(1, "flush-all", CALM + 50, CALM + 60)
        self.book.redis("FLUSHALL")
        self.assertNotIn("lost", " ".join(self.book.broken()[1]))
        self.book.aof.insert(0, self.book.aof.pop())
        self.caught("I1", "lost")

    def test_two_results_of_one_call_are_seen(self):
        other = witnessed("default", 1, "1-0", host="b")
        self.book.callers.append({"ev": "notice", "channel": "baton:reply:faults.default.witness", "text": other, "t": CALM + 200})
        self.caught("I1", "2 results")

    def test_a_result_that_is_written_over_is_seen_in_the_file(self):
        self.book.redis("SET", "baton:{default/witness}:result:1-0", witnessed("default", 1, "1-0"), "PXAT", 1)
        self.caught("I1", "second result")

    def test_an_acknowledgement_before_the_result_is_seen_even_in_one_step(self):
        at = next(i for i, words in enumerate(self.book.aof) if words[0] == b"SET")
        self.book.aof[at], self.book.aof[at + 1] = self.book.aof[at + 1], self.book.aof[at]
        self.caught("I1", "acknowledged before")

    def test_a_trimmed_stream_and_a_pending_entry_that_is_deleted_are_seen(self):
        self.book.redis("XADD", "baton:{default/echo}:calls", "9-0", "payload", payload("default", 3))
        self.book.read("default/echo", "9-0", "a")
        self.book.redis("XDEL", "baton:{default/echo}:calls", "9-0")
        self.caught("I1", "deleted while it was pending")
        self.book = Book()
        self.book.redis("XTRIM", "baton:{default/echo}:calls", "MAXLEN", 5)
        self.caught("I1", "trimmed")

    def test_a_result_that_is_no_document_is_seen(self):
        self.book.callers.append({"ev": "seen", "key": "baton:{default/echo}:result:3-0", "document": "rubbish", "t": CALM})
        self.caught("I1", "no result document")

    def test_two_dead_letters_of_one_call_are_seen(self):
        self.book.dead = [("default/echo", "3-0", "trap", payload("default", 3))] * 2
        self.caught("I1", "2 times")

    def test_a_result_that_nobody_asked_for_is_invented(self):
        self.book.results[("default/echo", "77-0")] = line("77-0", body="{}", digest="e0")
        self.caught("I2", "nobody sent such a call")

    def test_a_call_that_was_accepted_unheard_may_have_a_result_and_no_other(self):
        accepted = next(row for row in self.book.callers if row["ev"] == "accepted" and row["n"] == 3)
        accepted.update({"ev": "unsure", "detail": "the connection was reset"})
        self.passes()
        self.book.results[("acme/echo", "78-0")] = line("78-0", body="{}", digest="e0")
        self.caught("I2")

    def test_wrong_answers_are_seen(self):
        key = ("default/witness", "1-0")
        right = self.book.results[key]
        words = [('"sum":"', '"sum":"0'), ("default-secret-1", "default-secret-2"), ('"w0"', '"w1"'), ("build-000000", "build-000009")]
        for old, new in words:
            self.book.results[key] = altered(right, old, new)
            self.caught("I3", "wrong answer")
        self.book = Book()
        self.book.results[("default/echo", "3-0")] = line("3-0", body='{"other":1}', digest="e0")
        self.caught("I3", "instead of its own payload")

    def test_attempts_that_overlap_are_seen_unless_one_of_the_hosts_was_frozen(self):
        self.book.attempt("9", "default", "1-0", 1, 1, CALM + 50, CALM + 90, attempt=2)
        self.caught("I4", "began while")
        self.book.fault(1, "freeze-host", CALM - 5_000, CALM + 95, slot=0)
        self.assertNotIn("I4", self.book.broken()[0])
        self.book.faults[-2]["slot"] = 1
        self.assertNotIn("I4", self.book.broken()[0])
        self.book.faults[-2]["slot"] = 2
        self.caught("I4", "began while")

    def test_an_attempt_whose_end_nobody_saw_overlaps_with_all_that_follow(self):
        self.book.guests = [row for row in self.book.guests if row["x"] != "1" or row["ev"] == "begin"]
        self.book.attempt("9", "default", "1-0", 1, 1, CALM + 5_000, CALM + 5_090, attempt=2)
        self.caught("I4", "began while")

    def test_a_call_that_was_submitted_twice_may_run_twice_at_once(self):
        self.book.callers.append({"ev": "accepted", "n": 2, "detail": "mine", "t": CALM + 3})
        self.book.attempt("9", "acme", "mine", 2, 0, CALM + 50, CALM + 90)
        self.passes()

    def test_a_claim_from_a_host_in_no_trouble_is_seen(self):
        at = next(i for i, words in enumerate(self.book.aof) if words[0] == b"XCLAIM")
        before = copy.deepcopy(self.book.aof[at])
        before[3] = b"b"
        self.book.aof.insert(at, before)
        self.caught("I4", "in no trouble")
        self.book.fault(1, "kill-redis", CALM - 2_000, CALM - 1_000)
        self.passes()

    def test_a_clock_that_jumped_does_not_hide_such_a_claim(self):
        at = next(i for i, words in enumerate(self.book.aof) if words[0] == b"XCLAIM")
        before = copy.deepcopy(self.book.aof[at])
        before[3] = b"b"
        self.book.aof.insert(at, before)
        for words in self.book.aof[at : at + 2]:
            words[7] = str(int(CALM + 60_000)).encode()
        self.book.fault(1, "jump-clock", CALM - 50_000, CALM - 50_000, ahead_ms=60_000)
        self.caught("I4", "in no trouble")

    def test_a_result_by_a_host_that_does_not_hold_the_lease_is_stale(self):
        at = next(i for i, words in enumerate(self.book.aof) if words[0] == b"SET")
        self.book.aof[at][2] = witnessed("default", 1, "1-0", host="b").encode()
        self.caught("I5", "held its lease")

    def test_a_result_of_an_attempt_that_was_overtaken_on_its_own_host_is_stale(self):
        at = next(i for i, words in enumerate(self.book.aof) if words[0] == b"MULTI")
        self.book.aof.insert(at, [b"HINCRBY", b"baton:{default/witness}:claims", b"1-0", b"1"])
        self.caught("I5", "attempt 1 while it held the lease of [2]")

    def test_http_and_the_result_must_agree(self):
        answer = {"ev": "answer", "n": 3, "verb": "call", "status": 200, "id": "3-0", "t": CALM + 120}
        self.book.callers.append(answer | {"body": payload("default", 3)})
        self.passes()
        self.book.callers.append(answer | {"body": "something else"})
        self.caught("I6", "HTTP answered")

    def test_what_is_left_is_seen(self):
        self.book.left = ["default/echo: 1 entries are pending"]
        self.caught("I7", "pending")
        self.book.left, self.book.run = [], RUN | {"fallen_hosts": ["a"]}
        self.caught("I7", "ended by itself")
        self.book.run, self.book.quiet_after = RUN, None
        self.caught("I7", "still moves")

    def test_a_consumer_that_is_deleted_with_entries_is_seen(self):
        stream = "baton:{default/echo}:calls"
        self.book.redis("XADD", stream, "9-0", "payload", payload("default", 3))
        self.book.read("default/echo", "9-0", "a")
        self.book.redis("XGROUP", "DELCONSUMER", stream, "hosts", "a")
        self.caught("I7", "deleted while it had it")

    def test_entries_of_two_levels_are_two_though_redis_calls_them_the_same(self):
        high = "baton:{default/echo}:calls:high"
        for level in ["", ":high"]:
            self.book.redis("XADD", f"baton:{{default/echo}}:calls{level}", "9-0", "payload", payload("default", 3))
        self.book.read("default/echo", "9-0", "a", level=":high")
        self.book.redis("XDEL", "baton:{default/echo}:calls", "9-0")
        self.passes()
        self.book.redis("XGROUP", "DELCONSUMER", "baton:{default/echo}:calls", "hosts", "a")
        self.passes()
        self.book.redis("XGROUP", "DELCONSUMER", high, "hosts", "a")
        self.caught("I7", "deleted while it had it")

    def test_a_late_call_is_seen_and_time_with_faults_is_forgiven(self):
        seen = next(row for row in self.book.callers if row["ev"] == "seen" and "3-0" in row["key"])
        seen["t"] = CALM + 30_000
        self.caught("I8", "late")
        self.book.fault(1, "kill-redis", CALM + 5_000, CALM + 25_000)
        self.passes()

    def test_a_call_that_changes_its_build_midway_is_seen(self):
        end = next(row for row in self.book.guests if row["ev"] == "end")
        end["build"] = "build-000001"
        self.caught("I9", "began as build-000000")

    def test_a_result_of_a_build_on_which_no_attempt_ran_is_seen(self):
        self.book.guests = [row for row in self.book.guests if row["x"] != "1"]
        self.caught("I9", "its result is of")

    def test_a_host_that_does_not_end_in_order_is_seen(self):
        self.book.fault(1, "stop-host", CALM + 50, CALM + 150, slot=0, code=0, ms=100.0, drain_ms=12_000)
        self.passes()
        self.book.faults[-1]["code"] = 1
        self.caught("I11", "ended with 1")
        self.book.faults[-1] |= {"code": 0, "ms": 18_000.0}
        self.caught("I11", "after 18000 ms")

    def test_a_call_that_a_stopped_host_has_cut_off_is_seen(self):
        self.book.fault(1, "stop-host", CALM + 50, CALM + 150, slot=0, code=0, ms=100.0, drain_ms=12_000)
        self.book.guests = [row for row in self.book.guests if row["x"] != "1" or row["ev"] != "end"]
        self.book.attempt("9", "default", "1-0", 1, 1, CALM + 300, CALM + 390, attempt=2)
        self.caught("I11", "cut off an attempt")

    def test_a_host_that_grows_is_seen(self):
        sample = {"ev": "sample", "rss_kb": 100_000, "files": 40, "maps": 900, "t": CALM}
        self.book.run = RUN | {"soaks": True}
        self.caught("soak", "nobody looked")
        self.book.faults += [dict(sample) for _ in range(20)]
        self.passes()
        for row in self.book.faults[-5:]:
            row |= {"files": 90}
        self.caught("soak", "open files")

    def test_bytes_of_another_tenant_are_seen(self):
        key = ("acme/witness", "mine")
        self.book.results[key] = altered(self.book.results[key], "acme-secret-2", "default-secret-2")
        self.caught("I12", "bytes of default")


class Parsing(unittest.TestCase):
    def test_a_file_that_is_cut_short_gives_what_is_whole(self):
        data = b"#TS:1\r\n*2\r\n$3\r\nDEL\r\n$1\r\nx\r\n*2\r\n$3\r\nDEL\r\n$1\r\ny\r\n"
        self.assertEqual(list(resp.commands(data)), [[b"DEL", b"x"], [b"DEL", b"y"]])
        for cut in range(1, 20):
            self.assertEqual(list(resp.commands(data[:-cut])), [[b"DEL", b"x"]])

    def test_a_notice_has_several_documents(self):
        found = documents(line("a", body="{}") + line("b", body="\n\n"))
        self.assertEqual([(d.id, d.payload) for d in found], [("a", "{}"), ("b", "\n\n")])
        with self.assertRaises(ValueError):
            documents(line("a", body="{}")[:-1])


if __name__ == "__main__":
    unittest.main()
