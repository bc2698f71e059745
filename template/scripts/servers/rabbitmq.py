"""The RabbitMQ server: `make dev` does not bring one along, and says how to start it."""

from scripts.errors import DevelopmentError
from scripts.servers.process import Server

HOW = """\
BROKER_URL is not set, and `make dev` cannot run RabbitMQ itself. Start one, by one of

    docker run --detach --publish 127.0.0.1:5672:5672 rabbitmq:4
    sudo apt-get install rabbitmq-server      (Debian and Ubuntu: it starts by itself)
    brew install rabbitmq && brew services start rabbitmq

and name it, here or in .env:

    BROKER_URL=amqp://guest:guest@127.0.0.1:5672// make dev"""


class RabbitMQ(Server):
    """A server that somebody else runs."""

    name = "rabbitmq"
    variable = "BROKER_URL"
    default_port = 5672

    def prepare(self) -> None:
        """Raise DevelopmentError, which tells what to start."""
        raise DevelopmentError(HOW)
