"""`python -m evomerge`."""

from evomerge.runs.cli import main

main()
