"""`python -m tranship`."""

from tranship.cli.main import main

main()
