"""The tasks of signups: the welcome e-mail, and forgetting the tokens that nobody has sent back."""

from email.message import EmailMessage

from aiosmtplib import SMTPException

from app.settings import get_settings
from app.signups import mail
from app.signups.confirmation import delete_expired
from app.signups.schemas import Delivery, Welcome
from app.tasks import RetryPolicy, TaskContext, TaskFailed, task
from app.telemetry import get_logger

logger = get_logger(__name__)


@task(
    max_attempts=8,
    timeout=60,
    retry_on=(SMTPException, OSError),
    retry=RetryPolicy(first=2, factor=3, longest=3600),
)
async def send_welcome(context: TaskContext, welcome: Welcome) -> Delivery:
    """Send one welcome e-mail.

    Mail lies outside the database, so an attempt whose worker dies after sending sends again. Every attempt carries
    the same Message-ID, made from the task's id, by which mail servers and readers drop the double.
    """
    message_id = f"<{context.task_id}@signups.invalid>"
    smtp_url = get_settings().smtp_url.get_secret_value()
    if not smtp_url:  # development: production does not start without it
        logger.warning("SMTP_URL is empty: the e-mail is not sent")
        return Delivery(sent=False, message_id=message_id)
    message = EmailMessage()
    message["From"] = "welcome@example.org"
    message["To"] = welcome.email
    message["Subject"] = "Welcome"
    message["Message-ID"] = message_id
    message.set_content(f"Dear {welcome.name},\n\nwelcome! Confirm your address with this token:\n\n{welcome.token}\n")
    try:
        await mail.send(message, smtp_url)
    except SMTPException as error:
        if mail.is_final(error):
            raise TaskFailed("The mail server refuses the e-mail for good.") from error
        raise
    return Delivery(sent=True, message_id=message_id)


@task(timeout=60)
async def cleanup_expired_tokens(context: TaskContext, _payload: None) -> int:
    """Delete the confirmation tokens that are older than a day; return how many."""
    async with context.transaction() as session:
        return await delete_expired(session)
