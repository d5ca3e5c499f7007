"""Very many pictures into one table: on all cores, or with Ray on many machines, in parts that outlive a kill.

What makes a result exact: the list of inputs is frozen and cut into chunks once; a chunk's part is one file that is
there whole or not at all, and only one process writes them; the table is all parts in order. So whatever is killed
when, the next run computes the chunks without a part, and no picture is in two of them or in none.
"""

from edgecv_runtime.bulk.job import Done
from edgecv_runtime.bulk.running import CHUNK, Progress, run

__all__ = ["CHUNK", "Done", "Progress", "run"]
