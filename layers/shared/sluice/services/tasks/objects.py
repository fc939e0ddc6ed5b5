"""The sweep: what was erased is deleted from the bucket, and bucket and rows are compared.

An object without a row was written for a request that was settled otherwise, or never: it is deleted when it is so old
that nothing can still refer to it. A row without an object is reported by `verify`, until somebody brings the object
back.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Final

from sluice.db.maintenance import Maintenance
from sluice.domain.errors import SluiceError
from sluice.domain.objects import Version
from sluice.services.tasks.context import TaskContext
from sluice.storage import PAGE, Storage

# Longer than whoever writes an object may take until its row is there: a worker has 15 minutes.
GRACE: Final = timedelta(hours=1)
# So much of the function's 300 s is used; the next run goes on where this one stopped.
SECONDS: Final = 200.0


def run(context: TaskContext) -> dict[str, int]:
    """Run the task once."""
    if context.storage is None:
        return {}
    give_up_at = time.monotonic() + SECONDS
    figures = _delete_erased(context.maintenance, context.storage, give_up_at)
    figures |= _compare(context.maintenance, context.storage, give_up_at)
    if figures["not_deleted"]:
        raise SluiceError("task_failed", f"{figures['not_deleted']} objects could not be deleted.", done=figures)
    return figures


def _delete_erased(maintenance: Maintenance, storage: Storage, give_up_at: float) -> dict[str, int]:
    figures = {"deleted": 0, "not_deleted": 0}
    while time.monotonic() < give_up_at and (doomed := maintenance.doomed_objects(PAGE)):
        failed = storage.delete([Version(each.key, each.version_id) for each in doomed])
        gone = [each.object_id for each in doomed if Version(each.key, each.version_id) not in failed]
        figures["deleted"] += maintenance.forget_objects(gone)
        if failed:
            # They are the oldest, and would come again.
            figures["not_deleted"] = len(failed)
            break
    return figures


def _compare(maintenance: Maintenance, storage: Storage, give_up_at: float) -> dict[str, int]:
    figures = {"compared": 0, "missing": 0, "orphans_deleted": 0}
    oldest = datetime.now(UTC) - GRACE
    after = maintenance.begin_object_sweep()
    for found, upto in storage.parts(after):
        compared = maintenance.compare_objects(after, upto, found, int(GRACE.total_seconds()))
        orphans = [found[position - 1] for position in compared.unknown]
        # A young one is being written for a request that is settled next.
        orphans = [each for each in orphans if each.modified_at < oldest]
        kept = storage.delete(orphans) if orphans else set()
        figures["compared"] += len(found)
        figures["missing"] += compared.missing
        figures["orphans_deleted"] += len(orphans) - len(kept)
        after = upto
        if time.monotonic() > give_up_at:
            break
    return figures
