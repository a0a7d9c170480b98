"""What is measured, one module a question."""

from tests.bench.scenarios.base import Scenario
from tests.bench.scenarios.plain import PLAIN
from tests.bench.scenarios.rate import RATE, STARTS
from tests.bench.scenarios.streams import PACED, SATURATED

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for scenario in (PLAIN, PACED, SATURATED, RATE, STARTS)
}
