"""Sending e-mail by SMTP."""

from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import aiosmtplib

TIMEOUT_SECONDS = 20
THIS_HOST = {"localhost", "127.0.0.1", "::1"}


def is_final(error: aiosmtplib.SMTPException) -> bool:
    """Tell whether the server will never take the message (5xx), rather than later (4xx, or no answer)."""
    refusals = error.recipients if isinstance(error, aiosmtplib.SMTPRecipientsRefused) else [error]
    return all(isinstance(refusal, aiosmtplib.SMTPResponseException) and refusal.code >= 500 for refusal in refusals)


async def send(message: EmailMessage, smtp_url: str) -> None:
    """Send a message by the server at `smtp_url`. Raises aiosmtplib.SMTPException or OSError if it is not taken.

    A connection is encrypted if the server can do that; a password goes to another host in no other way.
    """
    url = urlsplit(smtp_url)
    must_encrypt = url.username is not None and url.hostname not in THIS_HOST and url.scheme != "smtps"
    await aiosmtplib.send(
        message,
        hostname=url.hostname,
        port=url.port,
        username=unquote(url.username) if url.username else None,
        password=unquote(url.password) if url.password else None,
        use_tls=url.scheme == "smtps",
        start_tls=True if must_encrypt else None,
        timeout=TIMEOUT_SECONDS,
    )
