"""What is measured, one module a question."""

from tests.bench.scenarios.bad_answers import BAD_ANSWERS
from tests.bench.scenarios.base import Scenario
from tests.bench.scenarios.embeddings import EMBEDDINGS
from tests.bench.scenarios.idle import IDLE
from tests.bench.scenarios.leaving import LEAVING, QUEUED
from tests.bench.scenarios.memory import MEMORY, MILLION
from tests.bench.scenarios.plain import PLAIN
from tests.bench.scenarios.rate import RATE
from tests.bench.scenarios.streams import PACED, SATURATED, STARTS

_ALL = (
    PLAIN,
    PACED,
    SATURATED,
    RATE,
    STARTS,
    EMBEDDINGS,
    MEMORY,
    IDLE,
    MILLION,
    LEAVING,
    QUEUED,
    BAD_ANSWERS,
)
SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
