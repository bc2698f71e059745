"""What a report is asked for with, and what it holds."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

GroupBy = Literal["country", "product", "month"]
EXAMPLE_ORDERS = """order_id,ordered_on,country,product,quantity,unit_price
1001,2026-01-03,DE,lamp,2,49.90
1002,2026-01-04,FR,chair,1,129.00
1003,2026-02-11,DE,chair,4,119.00
"""


class ReportRequest(BaseModel):
    """A report on orders: those shipped with the service, or your own."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"title": "Revenue by country, 2026", "group_by": "country", "first_day": "2026-01-01"},
                {"title": "Our lamps", "group_by": "month", "orders_csv": EXAMPLE_ORDERS},
            ]
        }
    )

    title: Annotated[str, Field(min_length=1, max_length=200)]
    group_by: GroupBy = "country"
    first_day: date | None = None
    last_day: date | None = None
    orders_csv: Annotated[
        str | None, Field(description="The columns order_id, ordered_on, country, product, quantity, unit_price.")
    ] = None

    @model_validator(mode="after")
    def _days_are_in_order(self) -> Self:
        if self.first_day and self.last_day and self.first_day > self.last_day:
            raise ValueError("first_day is after last_day")
        return self


class Order(BaseModel):
    """One row of the CSV."""

    order_id: Annotated[str, Field(min_length=1)]
    ordered_on: date
    country: Annotated[str, Field(min_length=1)]
    product: Annotated[str, Field(min_length=1)]
    quantity: Annotated[int, Field(ge=1)]
    unit_price: Annotated[Decimal, Field(ge=0, max_digits=14, decimal_places=2)]


class ReportLine(BaseModel):
    """The orders of one group."""

    group: str
    orders: int
    units: int
    revenue: Decimal
    average_order: Decimal
    share: Annotated[float, Field(description="Of the whole revenue, from 0 to 1.")]


class ReportContent(BaseModel):
    """The figures, with the group of the highest revenue first."""

    group_by: GroupBy
    orders: int
    units: int
    revenue: Decimal
    lines: list[ReportLine]


class ReportView(BaseModel):
    """A finished report."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    title: str
    content: ReportContent
    created_at: datetime


class ReportSummary(BaseModel):
    """What the task says when it is done; the report itself is at GET /reports/{report_id}."""

    report_id: UUID
    orders: int
    revenue: Decimal
