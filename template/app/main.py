"""The API of this process, with the settings of its environment: `uvicorn app.main:app`."""

from app.factory import create_app
from app.settings import get_settings
from app.telemetry import configure_logging

settings = get_settings()
configure_logging(settings.log_level, settings.log_format)
app = create_app(settings)
