"""Progress bars, and lines in their place where nobody looks at a terminal."""

import sys

import tqdm

SECONDS_BETWEEN_LINES = 30
LINE = "{desc}: {n_fmt} of {total_fmt}{unit}, {rate_fmt}, {remaining} left{postfix}"


class Progress(tqdm.tqdm):
    """A bar on standard error; in a file or a pipe, a line at times.

    The arguments are those of `tqdm.tqdm`. `tail -f` of a batch job's log tells how far it is,
    and the log does not fill with every state of the bar.
    """

    def __init__(self, *args, **options):
        self.on_terminal = sys.stderr.isatty()
        if self.on_terminal:
            options.setdefault("dynamic_ncols", True)
        else:
            options |= {
                "mininterval": SECONDS_BETWEEN_LINES,
                "maxinterval": 2 * SECONDS_BETWEEN_LINES,
                "miniters": 1,
                "delay": SECONDS_BETWEEN_LINES,
                "bar_format": LINE,
                "file": _Lines(),
            }
        super().__init__(*args, **options)


class _Lines:
    """Standard error for `tqdm`, which returns to the start of a line to replace it."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
