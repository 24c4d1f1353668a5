"""Names that vulture cannot see used: called by name, by a framework, or public on purpose."""
