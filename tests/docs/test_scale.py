"""docs/scale.md says what the program calculates from the measured figures, the file of prices and the template."""

import re

from benchmarks import report
from benchmarks.scale import page as scale
from tests.docs import facts
from tests.docs.markdown import page


def test_the_tables_are_those_that_the_program_calculates() -> None:
    written = page("docs/scale.md").text.partition(report.BEGIN)[2].partition(report.END)[0].strip()
    assert written == "\n\n".join(scale.sections(scale.read())), "run `make scale SCALE=--write`"


def test_every_class_of_the_template_has_a_price() -> None:
    assert set(facts.template()["Parameters"]["DatabaseClass"]["AllowedValues"]) <= set(scale.read().prices.classes)


def test_every_price_says_where_it_comes_from() -> None:
    prices = scale.read().prices
    sources = [price.source for price in prices.prices.values()]
    sources += [each.source for each in prices.classes.values()]
    silent = [source for source in sources if not re.search(r"AWS|Amazon|RDS|CloudWatch", source)]
    assert not silent, "a source names the page where the price stands, or says that it is recalled"
