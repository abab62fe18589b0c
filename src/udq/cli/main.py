"""The entry point of ``udq``: imports the commands so that Ctrl-C ends these imports, too, without a traceback."""

from __future__ import annotations

import sys

from udq.errors import INTERRUPTED


def main() -> None:
    """Run the command line; errors become one line on stderr and an exit code (0 done, 1 failed, 2 usage)."""
    try:
        from udq.cli import application
    except KeyboardInterrupt:
        print("udq: interrupted; nothing was done", file=sys.stderr)
        sys.exit(INTERRUPTED)
    application.run()
