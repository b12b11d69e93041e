"""Entry point of `python -m cap_viz`."""

from cap_viz.cli import main

main()
