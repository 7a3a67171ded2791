"""One turn of the retraining worker: a run taken, and brought to whatever its end is, with the reason in its row."""

from __future__ import annotations

import errno
import logging
import shutil
import threading
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from moderation.db import transaction
from moderation.errors import LostLease, TelltaleError
from moderation.retraining import runs
from moderation.retraining.runs import Lease
from moderation.settings import Settings
from moderation.storage import Storage
from moderation.vocabulary import RunStatus
from workers.retraining.child import ChildFailed
from workers.retraining.stages import (
    ADAPTER,
    CALIBRATION,
    CONFIG,
    JUDGEMENT,
    PROOF,
    REPORT,
    SPEEDS,
    NothingToLearn,
    Stages,
)
from workers.retraining.watch import Cancelled, Stopping, Watch

log = logging.getLogger(__name__)

# What is left of a run's folder, beside logs: the new version, and what was measured. The snapshot says the rest again.
STAYS = frozenset({ADAPTER, CONFIG, PROOF, SPEEDS, CALIBRATION, JUDGEMENT, REPORT})


def work(lease: Lease, store: Storage, rules: Settings, stopping: threading.Event) -> None:
    """Bring a run to whatever its end is. Where the lease is lost, or the database away, it is left to the next worker.

    Call it on a thread that lives as long as the process: what it starts ends with that.
    """
    with Watch(lease, rules.retrain_lease_s, stopping) as watch:
        run = Stages(lease, watch, store, rules)
        try:
            _finish(lease, *_outcome(run))
            _tidy(run.folder)
        except Stopping:
            with transaction() as session:
                runs.release(session, lease)
            log.info("run %s is given back", lease.run_id)
        except LostLease as error:
            log.warning("%s It is left to who has it now.", error.message)


def _outcome(run: Stages) -> tuple[RunStatus | None, str | None]:
    """How the run ended, and why; None where it has brought itself to its end. Raises LostLease, Stopping."""
    try:
        run.go()
    except (LostLease, Stopping, OperationalError, InterfaceError, PoolTimeout):
        raise
    except Cancelled:
        return RunStatus.CANCELLED, None
    except NothingToLearn as error:
        return RunStatus.SKIPPED, str(error)
    except ChildFailed as error:
        return RunStatus.FAILED, str(error)
    except TelltaleError as error:
        return RunStatus.FAILED, error.message
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            log.exception("run %s failed", run.folder.name)
        return RunStatus.FAILED, _of_the_system(error)
    except MemoryError:
        return RunStatus.FAILED, "Memory ran out in the retraining worker."
    except Exception as error:
        log.exception("run %s failed", run.folder.name)
        return RunStatus.FAILED, f"The run failed with {type(error).__name__}: {error}"
    return None, None


def _of_the_system(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full: make room in TELLTALE_RETRAIN_FOLDER, and run it again. ({error.strerror})"
    return f"The run failed: {error}"


def _finish(lease: Lease, status: RunStatus | None, reason: str | None) -> None:
    if status is not None:
        with transaction() as session:
            runs.end(session, lease, status, reason)
    log.info("run %s ended%s", lease.run_id, f": {status.value}, {reason}" if status else "")


def _tidy(folder: Path) -> None:
    """No bytes of anybody's image stay behind, nor words about it, nor its hash: what is erased must be gone.

    Until it is calibrated, a new version's golden images are some that it was trained on.
    """
    stays = STAYS if (folder / CALIBRATION).exists() else STAYS - {ADAPTER}
    for path in folder.glob("*"):
        if path.name in stays or path.suffix == ".log":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def tidy_up(folder: Path, live: UUID | None) -> None:
    """What runs that were lost have left behind, of all but the live one."""
    for left in folder.glob("*-*/"):
        if left.name != str(live):
            _tidy(left)


def turn(store: Storage, rules: Settings, stopping: threading.Event) -> bool:
    """Take the run that waits, if one does, and work on it; whether there was one."""
    with transaction() as session:
        lease = runs.take(session, timedelta(seconds=rules.retrain_lease_s))
    if lease is None:
        return False
    tidy_up(rules.retrain_folder, lease.run_id)
    work(lease, store, rules, stopping)
    return True
