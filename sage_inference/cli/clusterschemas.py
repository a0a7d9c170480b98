"""The answers of ``cluster``, as JSON Schema: see ``schemas``."""

from __future__ import annotations

from sage_inference.cli.schemaparts import _COUNT, _TEXT, _TEXT_OR_NULL, _answer, _list, _object

# ``state`` and ``message`` are Ray's: RUNNING, DEPLOYING, UNHEALTHY, DEPLOY_FAILED and others.
_REPLICA = _object(id=_TEXT, state=_TEXT, node=_TEXT_OR_NULL)
_MODEL = _object(
    name=_TEXT,
    application=_TEXT,
    state=_TEXT,
    wanted=_COUNT,
    running=_COUNT,
    message=_TEXT_OR_NULL,
    replicas=_list(_REPLICA),
)
CLUSTER = _answer(head=_TEXT, application=_TEXT, models=_list(_MODEL))
CLUSTER_SCALE = _answer(model=_TEXT, before=_COUNT, wanted=_COUNT)
CLUSTER_DOWN = _answer(ended=_list(_TEXT))
