"""/signups: one row, one durable task, one best-effort line; the response waits for neither of the last two."""

from fastapi import APIRouter, HTTPException, status

from app.database import Session, insert, new_id, now
from app.errors import Problem
from app.signups.audit import Audit
from app.signups.confirmation import confirm, create_token
from app.signups.models import Signup
from app.signups.schemas import SignupRequest, Welcome
from app.signups.tasks import send_welcome
from app.tasks import TaskAccepted, Tasks

router = APIRouter(prefix="/signups", tags=["signups"])


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    responses={409: {"model": Problem, "description": "The address is signed up already."}},
)
async def sign_up(request: SignupRequest, session: Session, tasks: Tasks, audit: Audit) -> TaskAccepted:
    """Sign up. The row and the task are committed together: neither exists without the other."""
    row = insert(Signup).values(id=new_id(), email=request.email.lower(), name=request.name, created_at=now())
    signup_id = await session.scalar(row.on_conflict_do_nothing(index_elements=["email"]).returning(Signup.id))
    if signup_id is None:
        raise HTTPException(409, "This address is signed up already.")
    welcome = Welcome(email=request.email, name=request.name, token=await create_token(session, signup_id))
    accepted = await tasks.submit(send_welcome, welcome, session=session)
    audit.add("signed up", request.email)
    return accepted


@router.post(
    "/confirmations/{token}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses={404: {"model": Problem, "description": "There is no such token, or not any more."}},
)
async def confirm_signup(token: str, session: Session) -> None:
    """Confirm an address with the token that was sent there. It works once, for a day."""
    if not await confirm(session, token):
        raise HTTPException(404, "There is no such token, or not any more.")
