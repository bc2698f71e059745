"""/reports: asking for a report, and reading it once it is there."""

from uuid import UUID

from fastapi import APIRouter, HTTPException, status

from app.database import ReadSession
from app.errors import Problem
from app.reports.models import Report
from app.reports.schemas import ReportRequest, ReportView
from app.reports.tasks import build_report
from app.tasks import TaskAccepted, Tasks

router = APIRouter(prefix="/reports", tags=["reports"])


@router.post("", status_code=status.HTTP_202_ACCEPTED)
async def create_report(request: ReportRequest, tasks: Tasks) -> TaskAccepted:
    """Have a report computed. Poll the task at Location; the report gets the same id."""
    return await tasks.submit(build_report, request)


@router.get("/{report_id}", responses={404: {"model": Problem, "description": "There is no such report (yet)."}})
async def read_report(report_id: UUID, session: ReadSession) -> ReportView:
    """Return a finished report."""
    report = await session.get(Report, report_id)
    if report is None:
        raise HTTPException(404, f"There is no report with this id; GET /tasks/{report_id} tells if one is coming.")
    return ReportView.model_validate(report)
