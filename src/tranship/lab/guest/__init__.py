"""Guests that write: a program without operating system (`records`, `writer.S`) and the machine it runs on."""

from tranship.lab.guest.machine import Guest
from tranship.lab.guest.records import Report, configure, inspect, prepare, reader

__all__ = ["Guest", "Report", "configure", "inspect", "prepare", "reader"]
