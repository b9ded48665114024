"""Charts and number formats of the dashboard."""

from __future__ import annotations

import pytest

from llm_gateway.dashboard import formats
from llm_gateway.dashboard.charts import COLOURS, HEIGHT, OTHERS, WIDTH, Series, stacked_bars


def test_bars_are_stacked_to_the_sum_of_their_part_of_the_period() -> None:
    chart = stacked_bars([Series("a", [1.0, 0.0]), Series("b", [1.0, 4.0])], ["mon", "tue"])
    assert chart.top == 4.0
    monday = [bar for bar in chart.bars if bar.title.startswith("mon")]
    assert [bar.title for bar in monday] == ["mon: a 1.0", "mon: b 1.0"]
    assert sum(bar.height for bar in monday) == pytest.approx(HEIGHT / 2)
    assert monday[1].y == pytest.approx(HEIGHT / 2)
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH and bar.y >= 0 for bar in chart.bars)
    assert chart.legend == [(0, "a", 1.0, None), (1, "b", 5.0, None)]


def test_more_series_than_colours_become_one() -> None:
    chart = stacked_bars([Series(f"model-{n}", [1.0]) for n in range(20)], ["day"])
    assert len(chart.legend) == COLOURS
    assert chart.legend[-1] == (COLOURS - 1, OTHERS, 13.0, None)


@pytest.mark.parametrize("series", [[], [Series("a", [0.0, 0.0])]])
def test_nothing_spent_is_an_empty_chart(series: list[Series]) -> None:
    chart = stacked_bars(series, ["mon", "tue"])
    assert (chart.is_empty, chart.bars) == (True, [])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "$0"),
        (0.0000001, "< $0.000001"),
        (0.00123, "$0.00123"),
        (0.5, "$0.5000"),
        (1234.5, "$1,234.50"),
    ],
)
def test_money_has_the_digits_that_it_needs(value: float | None, text: str) -> None:
    assert formats.usd(value) == text


def test_counts_times_and_shares_are_short() -> None:
    assert [formats.count(value) for value in (None, 0, 9999, 12_345, 1_500_000)] == [
        "–",
        "0",
        "9,999",
        "12.3k",
        "1.5M",
    ]
    assert [formats.ms(value) for value in (None, 12.4, 1500)] == ["–", "12 ms", "1.50 s"]
    assert [formats.percent(1, of) for of in (0, 3, 200)] == ["–", "33 %", "0.5 %"]
    assert formats.change(-0.25) == "-25 %"
    assert formats.when("2026-06-01T22:30:00Z", "Europe/Berlin") == "02 Jun 2026, 00:30:00"
    assert formats.local_input("2026-06-01T22:30:00Z", "Europe/Berlin") == "2026-06-02T00:30"
