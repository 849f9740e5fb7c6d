"""Pictures as they are made: in a window, or in the terminal where no window can be opened."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

import numpy as np

from bc_jax.view.drawing import scaled


class Window:
    """A window of Python's own tkinter; Escape, q or its button closes it.

    Args:
      title: of the window.

    Raises:
      ImportError: this Python has no tkinter.
      RuntimeError: there is no screen.
    """

    def __init__(self, title: str = "bc_jax"):
        import tkinter

        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise RuntimeError(str(error)) from error
        self._root.title(title)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._open, self._photo = True, None
        self._make = lambda data: tkinter.PhotoImage(data=data, format="ppm")
        self._root.protocol("WM_DELETE_WINDOW", self.close)
        for key in ("<Escape>", "q"):
            self._root.bind(key, lambda _: self.close())

    def show(self, picture: np.ndarray) -> bool:
        """Show uint8 RGB [H, W, 3], made smaller where the screen is; False once it is closed."""
        if not self._open:
            return False
        height, width = picture.shape[:2]
        room = self._root.winfo_screenheight() * 0.9, self._root.winfo_screenwidth() * 0.9
        factor = min(1.0, room[0] / height, room[1] / width)
        if factor < 1:
            picture = scaled(picture, (int(height * factor), int(width * factor)))
        header = f"P6 {picture.shape[1]} {picture.shape[0]} 255 ".encode()
        self._photo = self._make(header + picture.tobytes())
        self._label.configure(image=self._photo)
        self._root.update()
        return self._open

    def close(self) -> None:
        """Close the window."""
        if self._open:
            self._open, self._photo = False, None  # tkinter's pictures go before its window
            self._root.destroy()


class Terminal:
    """Pictures of half-block characters in 24-bit colour, each drawn over the last.

    Args:
      stream: where they are written; None is stdout.
      size: (lines, columns) to fill; None asks the terminal.
    """

    def __init__(self, stream: TextIO | None = None, size: tuple[int, int] | None = None):
        self._stream = sys.stdout if stream is None else stream
        self._size = size
        self._begun = False

    def show(self, picture: np.ndarray) -> bool:
        """Draw uint8 RGB [H, W, 3], with the last line left free for others; always True."""
        lines, columns = self._size or self._terminal_size()
        height, width = picture.shape[:2]
        # A character is two pixels high and one wide.
        factor = min(columns / width, 2 * (lines - 1) / height)
        size = max(1, int(height * factor / 2)) * 2, max(1, int(width * factor))
        small = scaled(picture, size)
        start = "\x1b[H" if self._begun else "\x1b[2J\x1b[H"
        self._begun = True
        rows = []
        for upper, lower in zip(small[::2], small[1::2], strict=True):
            cells = (
                f"\x1b[38;2;{a[0]};{a[1]};{a[2]};48;2;{b[0]};{b[1]};{b[2]}m▀"
                for a, b in zip(upper.tolist(), lower.tolist(), strict=True)
            )
            rows.append("".join(cells) + "\x1b[0m")
        self._stream.write(start + "\n".join(rows) + "\n")
        self._stream.flush()
        return True

    def close(self) -> None:
        """Leave the last picture where it is."""

    def _terminal_size(self) -> tuple[int, int]:
        try:
            columns, lines = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            columns, lines = 80, 24
        return lines, columns


@contextlib.contextmanager
def displayed(wanted: bool = True) -> Iterator[Callable[[np.ndarray | None], bool]]:
    """Yield a function that shows pictures, and says whether the viewer wants to go on.

    Args:
      wanted: False shows nothing.
    """
    if not wanted:
        yield lambda picture: True
        return
    try:
        display = Window()
    except (ImportError, RuntimeError):
        display = Terminal()
    with contextlib.closing(display):
        yield lambda picture: picture is None or display.show(picture)
