"""`python -m edgecv.cli` is the `edgecv` command."""

from edgecv.cli import main

main()
