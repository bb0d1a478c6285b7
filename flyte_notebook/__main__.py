"""``python -m flyte_notebook``: prints in a terminal which limits are enforced on this machine."""

from __future__ import annotations

import sys

from flyte_notebook import doctor


def main() -> int:
    """Print the doctor's report; return 0 when limits are enforced, 1 when workers cannot be isolated."""
    try:
        report = doctor()
    except RuntimeError as error:
        sys.stderr.write(f"flyte_notebook cannot isolate tasks here: {error}\n")
        return 1
    sys.stdout.write(f"{report}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
