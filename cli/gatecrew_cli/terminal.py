"""What others wrote, made harmless before it is shown: nobody's name or body may drive the reader's terminal."""

import re
from collections.abc import Iterator

# C0, DEL and C1 controls, what turns the direction of text, separators of lines, and halves of surrogate pairs.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROL_BUT_LINES = re.compile(rf"(?![\n\t]){_CONTROL.pattern}")


def visible(text: str, *, keep_lines: bool = False) -> str:
    r"""The text with its control characters written out, as in `\x1b[2J`.

    Args:
        keep_lines: leave line feeds and tabs as they are.
    """
    return (_CONTROL_BUT_LINES if keep_lines else _CONTROL).sub(_write_out, text)


def _write_out(character: re.Match[str]) -> str:
    return character[0].encode("unicode_escape").decode("ascii")


def hex_dump(data: bytes) -> Iterator[str]:
    """Lines of 16 bytes: offset, hex, and what is printable ASCII of them."""
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{start:08x}  {row[:8].hex(' '):<23}  {row[8:].hex(' '):<23}  |{text}|"
