"""The task that computes a report."""

from app.database import insert, now
from app.reports.models import Report
from app.reports.report import SHIPPED_ORDERS, OrdersError, read_orders, select_orders, summarize
from app.reports.schemas import ReportContent, ReportRequest, ReportSummary
from app.tasks import TaskContext, TaskFailed, task


def compute(request: ReportRequest) -> ReportContent:
    """Compute a report; it blocks, so it belongs in a thread. Raises OrdersError if the CSV cannot be used."""
    text = request.orders_csv if request.orders_csv is not None else SHIPPED_ORDERS.read_text(encoding="utf-8")
    return summarize(select_orders(read_orders(text), request), request.group_by)


@task(timeout=120)
async def build_report(context: TaskContext, request: ReportRequest) -> ReportSummary:
    """Compute a report and store it under the task's id; another attempt replaces it."""
    await context.progress(0.1, "reading orders")
    try:
        content = await context.in_thread(compute, request)
    except OrdersError as error:
        raise TaskFailed(str(error)) from error  # the same CSV would fail again
    await context.progress(0.9, "storing the report")
    async with context.transaction() as session:
        report = {"title": request.title, "content": content.model_dump(mode="json"), "created_at": now()}
        await session.execute(
            insert(Report)
            .values(id=context.task_id, **report)
            .on_conflict_do_update(index_elements=["id"], set_=report)
        )
    return ReportSummary(report_id=context.task_id, orders=content.orders, revenue=content.revenue)
