"""Names that vulture cannot see used: called by a framework, or by name."""

_.list_commands  # click.Group
_.get_command
_.format_commands
_.render  # starlette.Response
_.auth_flow  # httpx2.Auth
_.capture_signals  # uvicorn.Server
Hook  # resources: parse() finds a model by its kind
Conversion
