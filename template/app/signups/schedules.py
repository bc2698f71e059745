"""When the tasks of signups run by themselves."""

from app.signups.tasks import cleanup_expired_tokens
from app.tasks import Schedule

Schedule("cleanup-expired-tokens", "*/30 * * * *", cleanup_expired_tokens)
