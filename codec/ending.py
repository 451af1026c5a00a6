"""How a command ends: well, or with one line on stderr and a number that says why.

>>> with one_line():
...     done = "nothing was wrong, and nothing is printed"
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

from codec.errors import CodecError
from codec.files import describe_os_error


def stop(message: str, code: int) -> NoReturn:
    """Print one line on stderr and end with an exit code."""
    print(f"codec: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """End with one line instead of a traceback: 1 for an error of ours or the system's, 130 after Ctrl-C."""
    try:
        yield
    except CodecError as error:
        stop(str(error), 1)
    except KeyboardInterrupt:
        stop("interrupted; nothing is half written", 130)
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does. Python would complain once more at exit.
        sys.stdout = None
        sys.exit(1)
    except OSError as error:
        stop(f"{error.filename or 'system'}: {describe_os_error(error)}", 1)
