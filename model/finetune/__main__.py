"""`python -m model.finetune --config run.yaml`, or the same behind `accelerate launch -m`."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    # Imports take seconds, and there is nothing to put in order until then: Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    import torch

    from model.finetune.process import main

    # For this process alone. Moments that die away make denormal numbers, and those cost a CPU a tenfold.
    torch.set_flush_denormal(True)
    sys.exit(main())
