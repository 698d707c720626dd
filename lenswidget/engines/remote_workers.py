"""Several copies of a model in Ray actors, which share the rows of a survey."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from lenswidget.checks import is_integer
from lenswidget.errors import EngineLostError, LensError
from lenswidget.interventions.recipe import Edit, check_edits
from lenswidget.lenses.lens import LensLike, as_lens
from lenswidget.progress import Progress, reporting
from lenswidget.readout.run import EMBED_SITE
from lenswidget.survey.measured import measured_of
from lenswidget.survey.result_file import ResultFile
from lenswidget.survey.rows import Rows, SurveyRow, survey_rows
from lenswidget.survey.table import Survey
from lenswidget.survey.work import WINDOW
from lenswidget.versions import __version__, import_ray

# How many shares of rows are ahead of the first that is not done. A share is a window of `survey`: which rows
# are run together, and with that the last bits, hangs on it.
AHEAD = 3
Results = list[dict[str, Any]]


class RemoteWorkers:
    """Workers of a survey, as `lw.connect_workers` gives them: `lw.survey(workers, rows, ...)`.

    Those that have loaded the model take rows; the others join when they have. While all are busy and there
    are more rows, twice as many are asked for, up to a bound; those beyond the other bound end when there are
    none. Rows of a worker that is lost are done once more, by the same worker started again.

    Args:
        start: gives the handle of a new `SurveyWorker`.
        bounds: of how many there are: at least between surveys, and at most.
        wait_s: seconds to wait for the first of them.
    """

    def __init__(self, start: Callable[[], Any], bounds: tuple[int, int], wait_s: float | int) -> None:
        self._start, self._bounds, self._wait_s = start, bounds, wait_s
        self.name = ""
        self._actors: list[Any] = []
        self._ready: list[Any] = []
        self._coming: dict[Any, Any] = {}
        self._grow(bounds[0])
        while not self._ready:
            self._take(self._first_of(list(self._coming), self._wait_s))

    def survey(
        self,
        rows: Rows,
        *,
        prompt: str = "prompt",
        target: str = "target",
        foil: str | None = None,
        group: str | None = None,
        lens: LensLike | str = None,
        site: str = EMBED_SITE,
        k: int = 1,
        edits: Edit | Sequence[Edit] = (),
        out: str | Path | None = None,
        progress: Progress = True,
    ) -> Survey:
        """As `lw.survey`, which calls this; a lens that comes with the model is given by its name.

        Raises:
            EngineLostError: a worker was lost twice with the same rows, or none has loaded the model.
            LensError: as `lw.survey`.
        """
        given = check_edits(edits)
        if not is_integer(k) or k < 1:
            raise LensError(f"Asked for the top k={k!r:.40}. Pass an integer, 1 or more.")
        lens_name = lens if isinstance(lens, str) else as_lens(lens).name
        columns: dict[str, Any] = {"prompt": prompt, "target": target, "foil": foil, "group": group}
        told = {"models": [self.name], "lenses": [lens_name], "edits": [repr(edit) for edit in given]}
        file = nullcontext() if out is None else ResultFile(out, {**columns, "site": site, **told})
        asked = {"lens": lens, "site": site, "edits": given}
        conditions = ["plain", *(["edited"] if given else [])]
        given_rows: Any = Path(rows) if isinstance(rows, str) else rows
        total = len(given_rows) if isinstance(given_rows, Sized) else None
        found: Results = []
        with reporting(progress, "Survey", "prompt") as report, file as kept:
            had = {} if kept is None else {_key(each): each for each in kept.found()}
            for share, results in self._measured(survey_rows(rows, **columns), asked, had, conditions):
                digests = {row.index: row.digest for row in share}
                for each in results:
                    key = digests[each["row"]], each["row"], each["condition"]
                    if kept is not None and key not in had:
                        kept.append({**each, "digest": key[0]})
                    found.append(had.get(key, each))
                done = len(found) // len(conditions)
                report(done, max(total or 0, done))
        if not found:
            raise LensError("Asked to survey no rows; pass at least one prompt with its answer.")
        return Survey(int(k), lens_name, site, tuple(map(measured_of, found)))

    def _measured(
        self, rows: Iterator[SurveyRow], asked: dict[str, Any], had: Mapping[Any, Any], conditions: list[str]
    ) -> Iterator[tuple[list[SurveyRow], Results]]:
        """Shares of rows with their results, in the order of the rows; what a file had is not measured."""
        shares = enumerate(iter(lambda: list(islice(rows, WINDOW)), []))
        busy: dict[Any, tuple[Any, int, list[SurveyRow]]] = {}
        done: dict[int, tuple[list[SurveyRow], Results]] = {}
        next_one, is_more = 0, True
        while True:
            while is_more and self._ready and len(busy) + len(done) < AHEAD * len(self._actors):
                place, share = next(shares, (-1, []))
                is_more = bool(share)
                keys = [(row.digest, row.index, condition) for row in share for condition in conditions]
                if share and all(key in had for key in keys):
                    done[place] = share, [had[key] for key in keys]
                elif share:
                    actor = self._ready.pop()
                    busy[actor.measure.remote(share, asked)] = actor, place, share
            while next_one in done:
                yield done.pop(next_one)
                next_one += 1
            if not is_more:
                self._shrink()
            elif busy and not self._ready and not self._coming:
                self._grow(min(2 * len(self._actors), self._bounds[1]))
            if not busy and not is_more:
                return
            if not busy and self._ready:
                continue
            ready = self._first_of([*busy, *self._coming])
            if ready in self._coming:
                self._take(ready)
                continue
            actor, place, share = busy.pop(ready)
            done[place] = share, self._got(ready)
            self._ready.append(actor)

    def _grow(self, n: int) -> None:
        """Ask for workers, until there are `n`."""
        new = [self._start() for _ in range(n - len(self._actors))]
        self._actors += new
        self._coming |= {actor.hello.remote(): actor for actor in new}

    def _shrink(self) -> None:
        """End idle workers beyond the lower bound, those first that have not loaded the model."""
        ray = import_ray()

        idle = [*self._coming.values(), *self._ready]
        for actor in idle[: max(0, len(self._actors) - self._bounds[0])]:
            self._actors.remove(actor)
            self._ready = [each for each in self._ready if each is not actor]
            self._coming = {found: each for found, each in self._coming.items() if each is not actor}
            ray.kill(actor)

    def _first_of(self, references: list[Any], wait_s: float | int | None = None) -> Any:
        ray = import_ray()

        ready, _ = ray.wait(references, num_returns=1, timeout=wait_s)
        if not ready:
            raise EngineLostError(
                f"No worker has loaded the model within {wait_s:.0f} s: no node may have what it needs. See "
                "`ray status`, or pass wait_s=."
            )
        return ready[0]

    def _take(self, reference: Any) -> None:
        """A worker has loaded its model, or could not."""
        actor, told = self._coming.pop(reference), self._got(reference)
        if "error" in told:
            self.close()
            raise told["error"]
        if told["version"] != __version__:
            raise LensError(
                f"A worker has lenswidget {told['version']}, and this is {__version__}. Install the same on "
                "every node."
            )
        self.name = told["name"]
        self._ready.append(actor)

    def _got(self, reference: Any) -> Any:
        ray = import_ray()

        try:
            return ray.get(reference)
        except ray.exceptions.RayActorError:
            raise EngineLostError(
                "A worker was lost twice with the same rows; it may be short of memory. With out= the survey "
                "goes on from there when it is called again."
            ) from None
        except ray.exceptions.RayTaskError as error:
            cause: Any = error.cause
            raise (cause if isinstance(cause, LensError) else error) from None

    def close(self) -> None:
        """End all workers."""
        ray = import_ray()

        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._ready, self._coming = [], [], {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self._ready)} of {len(self._actors)} ready>"


def _key(kept: Mapping[str, Any]) -> tuple[str, int, str]:
    return kept["digest"], kept["row"], kept["condition"]
