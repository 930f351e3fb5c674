"""Python imports this at its start, where this folder is on its path: plants a fault in an embedded broker."""

import os
import sys

if "gateway.broker" in sys.orig_argv and (name := os.environ.get("CHAOS_BROKER_FAULT")):
    from chaos.broker_faults import BROKER_FAULTS

    BROKER_FAULTS[name]()
