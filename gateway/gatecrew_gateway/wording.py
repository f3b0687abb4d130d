"""Words for the log that depend on numbers."""


def counted(number: int, noun: str) -> str:
    """`1 packet`, `2 packets`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
