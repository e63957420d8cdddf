"""`python -m svq` is `svq`."""

from svq.cli import main

main()
