"""The SQLite database for development and tests: a file, so there is nothing to run."""

from scripts.servers.process import Server


class Sqlite(Server):
    """A database file in the data folder."""

    name = "sqlite"
    variable = "DATABASE_URL"
    is_file = True

    def prepare(self) -> None:
        """Name the file, in a folder that is there; the first connection makes it."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.url = f"sqlite:///{self.folder.parent / 'data.db'}"
