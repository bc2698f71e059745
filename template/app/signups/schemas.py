"""What a signup is sent as, and answered with."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, EmailStr, Field


class SignupRequest(BaseModel):
    """Who wants to sign up."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"email": "ada@example.org", "name": "Ada"}]})

    email: EmailStr
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Welcome(BaseModel):
    """What the welcome e-mail needs."""

    email: EmailStr
    name: str
    token: str


class Delivery(BaseModel):
    """What came of an e-mail."""

    sent: bool
    message_id: str
