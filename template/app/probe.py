"""The container's health check: `python -m app.probe URL` exits with 0 if the URL answers 200, otherwise with 1."""

import sys
from urllib.request import urlopen


def main(url: str) -> int:
    """Ask the URL; return the exit code."""
    try:
        with urlopen(url, timeout=4) as response:  # noqa: S310 (the URL is the image's own)
            return 0 if response.status == 200 else 1
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
