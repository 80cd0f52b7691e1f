"""The invariants I1 to I12, each held against what was seen. A finding says which one is broken, for which call, and how."""

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median

from .document import wrong
from .windows import Windows

TITLES = {
    "I1": "every accepted call reaches exactly one terminal result",
    "I2": "no result for a call that was never sent",
    "I3": "the result is what the function answers to its input",
    "I4": "two attempts of a call never overlap while both leases hold",
    "I5": "a stale attempt changes nothing",
    "I6": "the same key has the same result",
    "I7": "nothing is left when nothing moves",
    "I8": "99 % of the calls end within lease + sweep + 2 s of healing",
    "I9": "a call is served by one build from its begin to its end",
    "I10": "event logs have no gaps (tried by itself: the test suite `durable`)",
    "I11": "SIGTERM: the host ends in time, and nothing is executed again",
    "I12": "no tenant sees another's bytes",
    "soak": "a host that lives through it all does not grow",
}

#: Beyond its drain limit a host may wait so long for Redis before it ends.
BEYOND_DRAIN_MS = 5_000
#: How long a look at what dead hosts left may take.
SWEEP_MS = 1_000
#: What a host may have more of at the end than when it was warm: a share, and an amount that is no growth.
GROWTH = {"memory in KB": (0.20, 8_192), "open files": (0.0, 24), "maps": (0.10, 128)}
#: How long what was told just before or after FLUSHALL may belong to either side of it.
BLUR_MS = 700


@dataclass
class Finding:
    """One broken invariant."""

    invariant: str
    what: str
    function: str | None = None
    call: str | None = None
    #: when, if it has a time
    t: float | None = None


@dataclass
class Evidence:
    """All that is known of a run."""

    history: object
    ledger: object
    snapshot: object
    windows: object = None
    by_call: dict = field(default_factory=dict)
    executions: dict = field(default_factory=dict)
    sights: dict = field(default_factory=dict)

    def __post_init__(self):
        self.windows = self.windows or Windows(self.history)
        self.by_call = {call.key: call for call in self.history.calls.values() if call.id}
        self.executions, self.sights = defaultdict(list), defaultdict(list)
        functions = {call.key: call.function for call in self.history.calls.values()}
        by_tenant = {(key[0].split("/")[0], key[1]): key for key in functions if key[0].endswith("/witness")}
        for execution in self.history.executions:
            key = by_tenant.get((execution.tenant, execution.id), (f"{execution.tenant}/witness", execution.id))
            self.executions[key].append(execution)
        for sight in self.history.sights:
            self.sights[(sight.function, sight.document.id)].append(sight)
        # From here on a look at what is not there adds nothing.
        self.executions, self.sights = dict(self.executions), dict(self.sights)

    def voided(self, call):
        """Whether FLUSHALL took a call, or its result, from Redis. Its file says so exactly: a caller may be told late, over
        HTTP even of a result that is gone again."""
        if self.ledger.is_there:
            return call.key in self.ledger.flushed and call.key not in self.ledger.submitted
        told = [t for t, _ in call.accepted]
        return any(told and max(told + call.unsure) <= flush.whole + BLUR_MS for flush in self.history.flushes)

    def epoch(self, t):
        """How many times everything was flushed before; None if that is not clear."""
        for n, flush in enumerate(self.history.flushes):
            if t < flush.t - BLUR_MS:
                return n
            if t <= flush.whole + BLUR_MS:
                return None
        return len(self.history.flushes)

    def entries(self, key):
        """How many entries callers made for a call."""
        call = self.by_call.get(key)
        told = len(call.accepted) + len(call.unsure) if call else 1
        return max(self.ledger.submitted.get(key, 0), told) if self.ledger.is_there else told


def judge(evidence):
    """All findings, by invariant."""
    findings = []
    for check in (one_result, none_invented, right_answers, no_overlap, nothing_stale, same_key, nothing_left, in_time):
        findings += check(evidence)
    for check in (one_build, stops_in_order, tenants_apart, flat):
        findings += check(evidence)
    return findings


def from_ledger(evidence, *names):
    return [Finding(name, what, function, call) for name, function, call, what in evidence.ledger.wrong if name in names]


def one_result(evidence):
    """I1."""
    found = from_ledger(evidence, "I1")
    for call in evidence.by_call.values():
        standing = evidence.snapshot.results.get(call.key)
        told = defaultdict(dict)
        for sight in evidence.sights.get(call.key, []):
            epoch = evidence.epoch(sight.t)
            if epoch is not None:
                told[epoch].setdefault(sight.document.text, sight)
        last = len(evidence.history.flushes)
        if standing is not None and not evidence.voided(call):
            told[last].setdefault(standing.text, None)
        for sights in told.values():
            if len(sights) > 1:
                texts = " | ".join(sorted(sights))
                found.append(Finding("I1", f"it has {len(sights)} results: {texts[:600]}", *call.key))
        if call.accepted and standing is None and not evidence.voided(call):
            seen = "although it was seen" if evidence.sights.get(call.key, []) else "and nobody ever saw one"
            found.append(Finding("I1", f"lost: it was accepted and has no result, {seen}", *call.key, call.accepted[0][0]))
    letters = defaultdict(list)
    for function, call, reason, _ in evidence.snapshot.dead:
        letters[(function, call)].append(reason)
    for key, reasons in letters.items():
        if len(reasons) > 1:
            found.append(Finding("I1", f"it lies among the dead letters {len(reasons)} times: {reasons}", *key))
        standing = evidence.snapshot.results.get(key)
        if standing is not None and standing.status != "dead":
            found.append(Finding("I1", f"it lies among the dead letters ({reasons[0]}), and its result is {standing.status}", *key))
    for t, function, via, why in evidence.history.broken:
        found.append(Finding("I1", f"what was {via} is no result document: {why}", function, None, t))
    return found


def none_invented(evidence):
    """I2."""
    found = []
    sent = {call.payload for call in evidence.history.calls.values()}
    # Whoever was told no id cannot know it; such a call is known by what was sent, as Redis has it.
    unnamed = sum(1 for call in evidence.history.calls.values() if call.id is None and call.unsure)
    seen = set(evidence.snapshot.results) | set(evidence.sights) | {(f, c) for f, c, _, _ in evidence.snapshot.dead}
    unknown = [key for key in seen if key not in evidence.by_call]
    for key in unknown:
        payload = evidence.ledger.payloads.get(key)
        if evidence.ledger.is_there and (payload is None or payload.decode(errors="replace") not in sent):
            found.append(Finding("I2", "there is a result, and nobody sent such a call", *key))
    if len(unknown) > unnamed:
        what = f"{len(unknown)} results have ids that no caller knows, and only {unnamed} calls may have been accepted unheard"
        found.append(Finding("I2", what))
    for key, executions in evidence.executions.items():
        if key not in evidence.by_call and not any(e.k.endswith(f"-{n}") for e in executions for n in evidence.history.calls):
            found.append(Finding("I2", "it was executed, and nobody sent it", *key, executions[0].begin))
    return found


def right_answers(evidence):
    """I3."""
    found = []
    for key, call in evidence.by_call.items():
        told = [sight.document for sight in evidence.sights.get(key, [])]
        told += [evidence.snapshot.results[key]] if key in evidence.snapshot.results else []
        for document in {document.text: document for document in told}.values():
            try:
                why = wrong(call, document, evidence.history.builds)
            except (ValueError, KeyError, TypeError) as error:
                why = f"it cannot be read: {error!r}"
            if why:
                found.append(Finding("I3", f"wrong answer: {why}", *key))
    return found


def overlaps(evidence):
    """(call, first, second, fault that excuses it or None) of attempts that ran at once. A call that was submitted twice is
    two entries, which may; the first result stands."""
    for key, executions in evidence.executions.items():
        if evidence.entries(key) > 1:
            continue
        executions = sorted(executions, key=lambda execution: execution.begin)
        for i, first in enumerate(executions):
            over = first.over if first.over is not None else float("inf")
            for second in executions[i + 1 :]:
                if second.begin < over:
                    # The second host may be the one that was frozen: it wakes up, and knows of the claim a moment later.
                    slots = (first.slot, second.slot)
                    excuses = (evidence.windows.excuse(slot, first.begin, second.begin) for slot in slots)
                    yield key, first, second, next((excuse for excuse in excuses if excuse), None)


def no_overlap(evidence):
    """I4."""
    found = []
    for key, first, second, excuse in overlaps(evidence):
        if excuse is None:
            what = f"attempt {second.attempt} on host {second.slot} began while attempt {first.attempt} ran on host {first.slot}"
            found.append(Finding("I4", what, *key, second.begin))
    ids, lives = defaultdict(set), {}
    for t, slot, host, what in evidence.history.hosts:
        if host:
            ids[host].add(slot)
        if what in ("killed", "stopped"):
            lives[host] = t
    ahead = sorted((f.t, f.facts.get("ahead_ms", 0)) for f in evidence.history.faults if f.kind == "jump-clock")
    for function, call, ms, before, after in evidence.ledger.claims:
        t = wall(ms, ahead)
        slots = ids.get(before)
        if not slots or lives.get(before, float("inf")) <= t + 1_500:
            continue
        if evidence.windows.excuse(next(iter(slots)), t - 1_000, t + 1_000) is None:
            what = f"{after} claimed it from {before}, which lived and was in no trouble"
            found.append(Finding("I4", what, function, call, t))
    return found


def wall(ms, ahead):
    """The time of a moment by Redis's clock, which was ahead by so much since so and so."""
    for since, by in reversed(ahead):
        if ms - by >= since - 1_000:
            return ms - by
    return ms


def nothing_stale(evidence):
    """I5."""
    return from_ledger(evidence, "I5")


def same_key(evidence):
    """I6: what HTTP answers is what the result says. That all documents of one id agree is I1."""
    found = []
    for key, call in evidence.by_call.items():
        standing = evidence.snapshot.results.get(key)
        if standing is None or evidence.voided(call):
            continue
        for t, verb, status, _, body in call.answers:
            if verb != "call" or evidence.epoch(t) != len(evidence.history.flushes):
                continue
            if status == 200 and (standing.status != "ok" or body != standing.payload):
                found.append(Finding("I6", f"HTTP answered {body[:200]!r}, and its result is {standing.text[:300]}", *key, t))
            if status == 422 and standing.status != "error" or status == 502 and standing.status != "dead":
                found.append(Finding("I6", f"HTTP answered {status}, and its result is {standing.status}", *key, t))
    return found


def nothing_left(evidence):
    """I7."""
    found = from_ledger(evidence, "I7")
    if evidence.snapshot.quiet_after is None:
        found.append(Finding("I7", "something still moves long after the last fault"))
    fallen = evidence.history.run.get("fallen_hosts", [])
    found += [Finding("I7", f"the host {host} has ended by itself, and nobody told it to") for host in fallen]
    return found + [Finding("I7", what) for what in evidence.snapshot.left]


def lateness(evidence):
    """(call, ms of quiet in which it should have ended, ms that it may take) of each call with an end."""
    for key, call in evidence.by_call.items():
        if not call.accepted or evidence.voided(call):
            continue
        seen = [sight.t for sight in evidence.sights.get(key, [])]
        if not seen:
            continue
        executions = evidence.executions.get(key, [])
        work = max((e.over - e.begin for e in executions if e.over is not None), default=0.0)
        quiet = evidence.windows.longest_quiet(call.accepted[0][0], min(seen))
        # A retry waits up to 300 ms before the second attempt and 600 before the third.
        yield call, quiet, evidence.history.run["lease_ms"] + SWEEP_MS + 2_000 + work + 900


def in_time(evidence):
    """I8."""
    rows = list(lateness(evidence))
    late = [(call, quiet, may) for call, quiet, may in rows if quiet > may]
    if len(late) * 100 <= len(rows):
        return []
    call, quiet, may = max(late, key=lambda row: row[1] - row[2])
    what = f"{len(late)} of {len(rows)} calls are late; this one had {quiet:.0f} ms without any fault, and may take {may:.0f}"
    return [Finding("I8", what, *call.key, call.accepted[0][0])]


def one_build(evidence):
    """I9."""
    found = []
    for key, executions in evidence.executions.items():
        for execution in executions:
            if execution.end_build not in (None, execution.build):
                what = f"attempt {execution.attempt} began as {execution.build} and ended as {execution.end_build}"
                found.append(Finding("I9", what, *key, execution.begin))
            if execution.build not in evidence.history.builds:
                found.append(Finding("I9", f"it ran on {execution.build}, which was never built", *key, execution.begin))
    for key, call in evidence.by_call.items():
        document = evidence.snapshot.results.get(key)
        if document is None or document.status not in ("ok", "error") or not call.function.endswith("/witness"):
            continue
        ended = {e.build for e in evidence.executions.get(key, []) if e.end is not None}
        of = {name for name, digests in evidence.history.builds.items() if digests["witness"] == document.head.get("digest")}
        if not of & ended:
            what = f"its result is of {sorted(of)}, and the attempts that ended were of {sorted(ended)}"
            found.append(Finding("I9", what, *key))
    return found


def stops_in_order(evidence):
    """I11."""
    found = []
    for fault in evidence.history.faults:
        if fault.kind != "stop-host" or fault.whole is None:
            continue
        if fault.facts["code"] != 0 or fault.facts["ms"] > fault.facts["drain_ms"] + BEYOND_DRAIN_MS:
            what = f"{fault.host} ended with {fault.facts['code']} after {fault.facts['ms']:.0f} ms"
            found.append(Finding("I11", what, t=fault.t))
        others = [w for w in evidence.windows.all if w[4] is not fault and w[3] in (None, fault.slot)]
        if any(start <= fault.whole and to + tail >= fault.t for start, to, tail, *_ in others):
            continue
        for key, executions in evidence.executions.items():
            for execution in executions:
                held = execution.over if execution.over is not None else float("inf")
                if execution.slot != fault.slot or execution.begin > fault.whole or held < fault.t:
                    continue
                call = evidence.by_call.get(key)
                again = [e for e in executions if e.begin > execution.begin]
                may = evidence.entries(key) > 1 or call is None or '"mode":"retry"' in call.payload
                if execution.end is None:
                    found.append(Finding("I11", f"{fault.host} ended in order and cut off an attempt", *key, execution.begin))
                elif again and not may and evidence.windows.excuse(fault.slot, fault.t, again[0].begin) in (None, fault):
                    found.append(Finding("I11", f"{fault.host} ended in order, and the call was executed again", *key, again[0].begin))
    return found


def tenants_apart(evidence):
    """I12: every payload of the suite has its tenant's word in it."""
    found = []
    tenants = {call.tenant for call in evidence.history.calls.values()}

    def foreign(function, text):
        own = function.split("/")[0]
        return next((t for t in tenants if t != own and f"{t}-secret-" in text), None)

    seen = [(s.function, s.document.id, s.document.text, s.t) for s in evidence.history.sights]
    seen += [(function, call, document.text, None) for (function, call), document in evidence.snapshot.results.items()]
    seen += [(function, call, payload, None) for function, call, _, payload in evidence.snapshot.dead]
    seen += [(c.function, c.id, body, t) for c in evidence.history.calls.values() for t, _, _, _, body in c.answers]
    for function, call, text, t in seen:
        other = foreign(function, text)
        if other:
            found.append(Finding("I12", f"it has bytes of {other}", function, call, t))
    for execution in evidence.history.executions:
        if not execution.k.startswith(f"{execution.tenant}-secret-"):
            function = f"{execution.tenant}/witness"
            found.append(Finding("I12", f"it was handed {execution.k}", function, execution.id, execution.begin))
    return found


def growth(evidence):
    """Of memory, files and maps: the median when the host was warm, and that at the end."""
    samples = evidence.history.samples
    fifth = len(samples) // 5
    if fifth == 0:
        return {}
    warm, last = samples[fifth : 2 * fifth], samples[-fifth:]
    return {name: (median(row[i] for row in warm), median(row[i] for row in last)) for i, name in enumerate(GROWTH)}


def flat(evidence):
    """A host that is never killed has no more at the end than when it was warm."""
    if not evidence.history.run.get("soaks"):
        return []
    found = [] if evidence.history.samples else [Finding("soak", "nobody looked at the host that is spared")]
    for name, (warm, last) in growth(evidence).items():
        share, amount = GROWTH[name]
        if last > warm * (1 + share) + amount:
            found.append(Finding("soak", f"{name} of the host that was spared went from {warm:.0f} to {last:.0f}"))
    return found
