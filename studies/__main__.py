"""Compute the study: `python -m studies`."""

from studies.command import main

if __name__ == "__main__":
    main()
