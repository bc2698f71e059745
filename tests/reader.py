"""A reader of the pages, who types what stands there into a shell beside a running service."""

import os
import re
from pathlib import Path

from tests.documents import URL
from tests.support import run
from tests.test_dev import MakeDev

CURLRC = 'max-time = 60\nwrite-out = "%{stderr}\\n%{http_code}\\n"\n'
"""So that the line itself stays as it is."""
LEFT_TO_THE_READER = re.compile(r"^(?:TASK|KEY)=\S*\.\.\.$\n?", re.MULTILINE)
STATUS = re.compile(r"^([1-5]\d\d)$", re.MULTILINE)
LOCATION = re.compile(r"^location: /tasks/(\S+)", re.MULTILINE | re.IGNORECASE)


class Reader:
    """Types what a page has, as it stands there, in a folder of its own, for a service at another address.

    A line as `TASK=019a...` or `KEY=...` is left out: the shell has values for them. `task` is the id of what was
    submitted last. Programs in `bin`, within that folder, are found before all others.
    """

    def __init__(self, dev: MakeDev, folder: Path, *, task: str, key: str = "") -> None:
        self.task = task
        self.bin = folder / "bin"
        self.bin.mkdir()
        (folder / ".curlrc").write_text(CURLRC)
        self._dev = dev
        self._folder = folder
        path = os.pathsep.join([str(self.bin), str(dev.folder / ".venv" / "bin"), os.environ["PATH"]])
        self._variables = [f"KEY={key}", f"CURL_HOME={folder}", f"LOG={dev.log}", f"PATH={path}"]

    def here(self, text: str) -> str:
        """Return the text with the address that the service has."""
        return text.replace(URL, self._dev.url)

    def type(self, text: str) -> str:
        """Type it, see that all calls in it are answered as they should be, and return what is said."""
        typed = LEFT_TO_THE_READER.sub("", self.here(text))
        said = run("env", f"TASK={self.task}", *self._variables, "sh", "-ec", typed, folder=self._folder)
        # The task may have ended by now, and then cannot be cancelled or run again.
        allowed = {"200", "202"} | ({"409"} if re.search(r"POST .*/\$TASK/", text) else set())
        statuses = STATUS.findall(said)
        assert len(statuses) == len(re.findall(r"\bcurl\b", text)), said
        assert allowed.issuperset(statuses), said
        if "wait=20" in text:
            assert '"status":"completed"' in said
        if submitted := LOCATION.search(said):
            self.task = submitted[1]
        return said
