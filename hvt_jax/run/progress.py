"""The line on the console that says where a run is."""

import contextlib
from collections.abc import Iterator

import rich.console
import rich.live
import rich.text


class Progress:
    """One line on the console: overwritten in place on a terminal, printed anew elsewhere."""

    def __init__(self, console: rich.console.Console):
        self._console = console
        self._is_terminal = console.is_terminal and not console.is_jupyter
        self._live: rich.live.Live | None = None
        self._line = ""
        self._said: set[str] = set()

    def show(self, line: str) -> None:
        """Show `line` in place of the one before."""
        self._line = line
        if self._is_terminal:
            self._update(line)
        else:
            self.note(line)

    @contextlib.contextmanager
    def busy(self, line: str) -> Iterator[None]:
        """Show what takes long in place of the line, as long as it takes; where lines stay, only the first time."""
        if not self._is_terminal:
            if line not in self._said:
                self._said.add(line)
                self.note(line)
            yield
            return
        self._update(line)
        try:
            yield
        finally:
            self._update(self._line)

    def note(self, line: str) -> None:
        """Print `line` for good."""
        self._console.print(rich.text.Text(line), soft_wrap=True)

    def close(self) -> None:
        """Leave the last line on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _update(self, line: str) -> None:
        if self._live is None:
            # No refresh thread: lines come from the loop, and the step must not share its core.
            self._live = rich.live.Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(rich.text.Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
