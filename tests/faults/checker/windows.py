"""When the world was broken, for whom, and for how long that may show."""


def seconds(ms):
    return ms * 1000.0


#: Faults that take nothing from anybody: calls go on as if nothing were.
HARMLESS = {"reload", "bad-file", "jump-host-clock"}
#: Faults that everybody feels.
SHARED = {"kill-redis", "freeze-redis", "slow-disk", "full-disk", "full-memory", "jump-clock", "flush-all", "kill-nameless"}
#: How long after the end of a fault at one host its peers may still act on what they saw.
TAIL_MS = 2_000.0


class Windows:
    """All faults of a run as windows of time: [from, to], and a tail in which their effects may show."""

    def __init__(self, history):
        self.lease = history.run["lease_ms"]
        self.all = []
        # A silent host is one without a sign of life for a lease and a third, and nobody is judged within three seconds.
        shared_tail = self.lease * 4 / 3 + 3_000
        for fault in history.faults:
            if fault.kind in HARMLESS:
                continue
            to = fault.whole if fault.whole is not None else float("inf")
            shared = fault.kind in SHARED
            self.all.append((fault.t, to, shared_tail if shared else TAIL_MS, None if shared else fault.slot, fault))

    def excuse(self, slot, since, until):
        """The first fault that touches this host between two times, tails included."""
        for start, to, tail, whose, fault in self.all:
            if whose in (None, slot) and start <= until and to + tail >= since:
                return fault
        return None

    def longest_quiet(self, since, until):
        """The longest time between two times in which nothing was broken."""
        longest, at = 0.0, since
        for start, to, *_ in sorted(self.all, key=lambda window: window[0]):
            if start > until:
                break
            longest = max(longest, min(start, until) - at)
            at = max(at, to)
        return max(longest, until - at)
