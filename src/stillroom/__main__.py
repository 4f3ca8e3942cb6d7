"""``python -m stillroom`` is the command line."""

from stillroom.cli import main

main()
