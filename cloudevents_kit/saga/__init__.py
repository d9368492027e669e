"""Work in steps, each with one that takes it back: when a step fails for good, those before it are compensated.

    steps = [Step("reserve", reserve, release), Step("pay", pay, refund), Step("ship", ship)]
    order = Saga("order", steps, journal=journal)
    router.on("com.example.order.created")(order)

What was begun and what was done is in a journal, so that a process that dies leaves nothing half done: whoever opens
the saga next goes on at the step that was in doubt.
"""

from cloudevents_kit.saga._journal import Journal, Report, Status
from cloudevents_kit.saga._reacts import reacts
from cloudevents_kit.saga._saga import Saga
from cloudevents_kit.saga._steps import Context, InDoubt, SagaError, Step, Wait, ask

__all__ = ["Context", "InDoubt", "Journal", "Report", "Saga", "SagaError", "Status", "Step", "Wait", "ask", "reacts"]
