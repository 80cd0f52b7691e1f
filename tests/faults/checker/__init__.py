"""Judges a run of the fault suite. It shares no code with the host or the suite: what it knows of Baton is docs/protocol.md."""
