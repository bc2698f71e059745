"""Computing a report from rows of orders: pure functions, without a database or a queue."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from pydantic import ValidationError

from app.reports.schemas import GroupBy, Order, ReportContent, ReportLine, ReportRequest

SHIPPED_ORDERS = Path(__file__).parent / "orders.csv"
CENT = Decimal("0.01")


class OrdersError(ValueError):
    """The CSV of orders cannot be used; the message names the line and what is wrong there."""


@dataclass
class Sum:
    """What has been added up for one group."""

    orders: int = 0
    units: int = 0
    revenue: Decimal = Decimal(0)

    def add(self, order: Order) -> None:
        """Count an order in."""
        self.orders += 1
        self.units += order.quantity
        self.revenue += order.quantity * order.unit_price


def read_orders(text: str) -> list[Order]:
    """Read the orders of a CSV text. Raises OrdersError at the first line that is not one."""
    # A spreadsheet program may have begun the file with a byte order mark.
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    missing = [name for name in Order.model_fields if name not in (reader.fieldnames or [])]
    if missing:
        raise OrdersError(f"The first line must name the columns; missing: {', '.join(missing)}.")
    orders = []
    try:
        for row in reader:
            if reader.restkey in row:
                raise OrdersError(f"Line {reader.line_num}: it has more cells than there are columns.")
            orders.append(Order.model_validate(row))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise OrdersError(f"Line {reader.line_num}, {problem['loc'][0]}: {problem['msg']}.") from error
    except csv.Error as error:
        raise OrdersError(f"Line {reader.line_num + 1}: {error}.") from error
    return orders


def select_orders(orders: Iterable[Order], request: ReportRequest) -> list[Order]:
    """Return the orders that lie within the days the request asks for."""
    first, last = request.first_day or date.min, request.last_day or date.max
    return [order for order in orders if first <= order.ordered_on <= last]


def group_of(order: Order, group_by: GroupBy) -> str:
    """Return the group an order counts in."""
    match group_by:
        case "country":
            return order.country
        case "product":
            return order.product
        case "month":
            return order.ordered_on.strftime("%Y-%m")


def summarize(orders: Iterable[Order], group_by: GroupBy) -> ReportContent:
    """Add orders up by group."""
    groups: dict[str, Sum] = defaultdict(Sum)
    total = Sum()
    for order in orders:
        groups[group_of(order, group_by)].add(order)
        total.add(order)
    lines = [
        ReportLine(
            group=group,
            orders=part.orders,
            units=part.units,
            revenue=part.revenue,
            average_order=(part.revenue / part.orders).quantize(CENT, ROUND_HALF_UP),
            share=round(float(part.revenue / total.revenue), 4) if total.revenue else 0.0,
        )
        for group, part in groups.items()
    ]
    lines.sort(key=lambda line: (-line.revenue, line.group))
    return ReportContent(group_by=group_by, orders=total.orders, units=total.units, revenue=total.revenue, lines=lines)
