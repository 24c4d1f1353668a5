"""Disks in this process's memory, by name: `memory:NAME`. For tests and the engine's own contract suite."""

DISKS: dict[str, bytearray] = {}
