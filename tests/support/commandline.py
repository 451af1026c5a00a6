"""What the command line wrote."""


def only_line(text: str) -> str:
    """The one line of stderr."""
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text.strip()
