"""``python -m flyte_notebook``: what is enforced on this machine, in a terminal."""

from __future__ import annotations

import sys

from flyte_notebook import doctor


def main() -> int:
    """Print what the doctor says; return 0 when limits are enforced, 1 when nothing can be isolated."""
    try:
        report = doctor()
    except RuntimeError as error:
        sys.stderr.write(f"flyte_notebook cannot isolate tasks here: {error}\n")
        return 1
    sys.stdout.write(f"{report}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
