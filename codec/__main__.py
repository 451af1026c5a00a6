"""`python -m codec` is `codec`: what takes a while to import comes in where Ctrl-C ends with one line, too."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

QUICK = {"--help", "--version", "--show-completion", "--install-completion"}  # end without any work


def main() -> None:
    """Import the command line, then run it; nothing is written before that, so Ctrl-C may end it at once."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        # No exception: what is written in C, as numpy, would make an ImportError of it.
        signal.signal(signal.SIGINT, _end)
    from codec import cli

    if not QUICK & {*sys.argv} and "_CODEC_COMPLETE" not in os.environ:
        import codec.api  # noqa: F401 (numpy and the audio libraries, which all commands need)

    signal.signal(signal.SIGINT, before)
    cli.main()


def _end(number: int, frame: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), b"codec: interrupted; nothing is half written\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
