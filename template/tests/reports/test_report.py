"""Computing a report: pure functions, tested without a database or a queue."""

from datetime import date
from decimal import Decimal

import pytest

from app.reports.report import SHIPPED_ORDERS, OrdersError, read_orders, select_orders, summarize
from app.reports.schemas import ReportRequest

HEADER = "order_id,ordered_on,country,product,quantity,unit_price\n"
ORDERS = (
    HEADER
    + """\
1,2026-01-03,DE,lamp,2,49.90
2,2026-01-31,FR,chair,1,129.00
3,2026-02-01,DE,chair,1,129.00
4,2026-02-28,DE,lamp,1,0.01
"""
)


def test_orders_are_read_from_csv() -> None:
    first, *others = read_orders(ORDERS)
    assert (first.order_id, first.ordered_on, first.country, first.product) == ("1", date(2026, 1, 3), "DE", "lamp")
    assert (first.quantity, first.unit_price) == (2, Decimal("49.90"))
    assert len(others) == 3


def test_the_order_of_columns_and_further_ones_do_not_matter() -> None:
    text = "note,unit_price,quantity,product,country,ordered_on,order_id\nhello,1.50,3,lamp,DE,2026-01-03,1\n"
    [order] = read_orders(text)
    assert (order.unit_price, order.quantity, order.order_id) == (Decimal("1.50"), 3, "1")


@pytest.mark.parametrize("start", ["\ufeff", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_files_of_spreadsheet_programs_are_read(start: str, end: str) -> None:
    assert len(read_orders(start + ORDERS.replace("\n", end))) == 4


def test_a_cell_may_hold_commas_and_lines() -> None:
    [order] = read_orders(HEADER + '1,2026-01-03,DE,"a lamp,\nand a ""shade""",1,2.00\n')
    assert order.product == 'a lamp,\nand a "shade"'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "missing: order_id, ordered_on, country, product, quantity, unit_price"),
        ("order_id,country\n1,DE\n", "missing: ordered_on, product, quantity, unit_price"),
        (ORDERS + "5,2026-02-30,DE,lamp,1,1.00\n", "Line 6, ordered_on"),
        (ORDERS + "5,2026-03-01,DE,lamp,none,1.00\n", "Line 6, quantity"),
        (ORDERS + "5,2026-03-01,DE,lamp,0,1.00\n", "Line 6, quantity"),
        (ORDERS + "5,2026-03-01,DE,lamp,1,-1.00\n", "Line 6, unit_price"),
        (ORDERS + "5,2026-03-01,DE,lamp,1,1.005\n", "Line 6, unit_price"),
        (ORDERS + "5,2026-03-01,DE,lamp,1,NaN\n", "Line 6, unit_price"),
        (ORDERS + "5,2026-03-01,,lamp,1,1.00\n", "Line 6, country"),
        (ORDERS + "5,2026-03-01,DE,lamp\n", "Line 6, quantity"),
        (ORDERS + "5,2026-03-01,DE,lamp,1,1,50\n", "Line 6"),
        (ORDERS + f"5,2026-03-01,DE,{'x' * 200_000},1,1.00\n", "Line 6"),
    ],
)
def test_the_first_line_that_is_no_order_is_named(text: str, problem: str) -> None:
    with pytest.raises(OrdersError, match=problem):
        read_orders(text)


def test_the_days_asked_for_are_part_of_the_report() -> None:
    orders = read_orders(ORDERS)

    def chosen(first: str | None, last: str | None) -> list[str]:
        request = ReportRequest.model_validate({"title": "t", "first_day": first, "last_day": last})
        return [order.order_id for order in select_orders(orders, request)]

    assert chosen(None, None) == ["1", "2", "3", "4"]
    assert chosen("2026-01-31", "2026-02-01") == ["2", "3"]
    assert chosen("2026-02-28", None) == ["4"]
    assert chosen(None, "2026-01-03") == ["1"]
    assert chosen("2027-01-01", None) == []


def test_orders_are_added_up_by_country() -> None:
    content = summarize(read_orders(ORDERS), "country")
    assert (content.orders, content.units, content.revenue) == (4, 5, Decimal("357.81"))
    germany, france = content.lines
    assert (germany.group, germany.orders, germany.units) == ("DE", 3, 4)
    assert (germany.revenue, germany.average_order, germany.share) == (Decimal("228.81"), Decimal("76.27"), 0.6395)
    assert (france.group, france.revenue, france.average_order) == ("FR", Decimal("129.00"), Decimal("129.00"))


def test_orders_are_added_up_by_product_and_by_month() -> None:
    products = summarize(read_orders(ORDERS), "product")
    assert [(line.group, line.revenue) for line in products.lines] == [
        ("chair", Decimal("258.00")),
        ("lamp", Decimal("99.81")),
    ]
    months = summarize(read_orders(ORDERS), "month")
    assert [(line.group, line.orders) for line in months.lines] == [("2026-01", 2), ("2026-02", 2)]


def test_no_orders_and_free_ones_make_a_report_too() -> None:
    assert summarize([], "country").lines == []
    [line] = summarize(read_orders(HEADER + "1,2026-01-03,DE,gift,1,0.00\n"), "country").lines
    assert line.revenue == line.share == 0


def test_the_shipped_orders_can_be_read() -> None:
    orders = read_orders(SHIPPED_ORDERS.read_text(encoding="utf-8"))
    content = summarize(orders, "country")
    assert content.orders == len(orders) > 1000
    assert content.revenue == sum(line.revenue for line in content.lines)
    assert sum(line.share for line in content.lines) == pytest.approx(1, abs=0.001)
