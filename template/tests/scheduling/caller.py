"""A process that drives the schedules from outside, as a crontab does: `python -m tests.scheduling.caller URL...`.

It calls each URL in turn, again and again, with INTERNAL_TOKEN, and prints a line for each firing that it got.
"""

import itertools
import json
import os
import sys
import time
from urllib.error import URLError
from urllib.request import Request, urlopen


def call(url: str) -> None:
    """Call once; the next call makes up for one that fails."""
    request = Request(url, method="POST", headers={"Authorization": f"Bearer {os.environ['INTERNAL_TOKEN']}"})
    try:
        with urlopen(request, timeout=10) as response:
            for firing in json.load(response)["fired"]:
                print("fired", firing["fire_at"], flush=True)
    except (URLError, ConnectionError, TimeoutError) as error:
        print("failed", type(error).__name__, flush=True)


if __name__ == "__main__":
    print("calling", flush=True)
    for url in itertools.cycle(sys.argv[1:]):
        call(url)
        time.sleep(0.1)
