"""The retry budget: how many requests may be repeated, so that retries do not become a storm.

``gateway/relay/attempt.py`` and ``exchange.py`` have the failures after which a request may be repeated at all, and
``Scheduler.can_retry`` the instances that are left for it.
"""

from __future__ import annotations

from sage_inference.control_plane.accounting.rates import Rates

AT_LEAST = 10  # retries in the window of ``Rates``, however few requests there are
SHARE = 0.2  # of the requests in that window


def may_retry(rates: Rates) -> bool:
    """Whether the budget allows another retry.

    Retries from an instance that is lost do not count. They come once an ejection and all at once, so the budget would
    fail most of them.
    """
    submitted, retried = rates.recent()
    return retried < AT_LEAST + SHARE * submitted
